/*
 * raw_size.hpp -- how much memory a value takes once it is read. Its header says so: the value itself is not read.
 *
 * noexcept, safe in any region.
 */
#pragma once

#include "pg/server.hpp"

extern "C" {
#include "access/detoast.h"
}

namespace jobqueue {

/* The size of a varlena, in bytes. */
inline int64 raw_size(Datum value) noexcept {
	const auto *data = reinterpret_cast<const varlena *>(DatumGetPointer(value));
	if (VARATT_IS_EXTERNAL_ONDISK(data)) {
		varatt_external pointer;
		VARATT_EXTERNAL_GET_POINTER(pointer, data);
		return pointer.va_rawsize;
	}
	if (VARATT_IS_COMPRESSED(data))
		return static_cast<int64>(VARDATA_COMPRESSED_GET_EXTSIZE(data) + VARHDRSZ);
	return static_cast<int64>(VARSIZE_ANY(data));
}

/*
 * How many bytes of payloads, or results, a worker takes at once: of tasks that are claimed, or run, together. A single
 * task may be larger, and is alone then.
 */
inline constexpr int64 most_bytes_together = 16 * 1024 * 1024;
/* How many bytes one claim from outside returns. */
inline constexpr int64 most_bytes_outside = 64 * 1024 * 1024;

} // namespace jobqueue
