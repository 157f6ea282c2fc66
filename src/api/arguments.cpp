/*
 * arguments.cpp -- see arguments.hpp. C++ region.
 */
#include "api/arguments.hpp"

#include "api/declared_defaults.hpp"

namespace jobqueue {

void Arguments::require(int n, const char *name) const {
	if (!is_null(n))
		return;
	const Oid function = fcinfo_->flinfo->fn_oid;
	const NullableDatum value = guard([function, n] { return declared_default(function, n); });
	if (value.isnull)
		throw Error(ERRCODE_NULL_VALUE_NOT_ALLOWED, std::string(name) + " must not be null");
	defaults_.push_back({n, value.value});
}

int64 Arguments::int64_at(int n, const char *name) const {
	require(n, name);
	return DatumGetInt64(datum(n));
}

int32 Arguments::int32_at(int n, const char *name) const {
	require(n, name);
	return DatumGetInt32(datum(n));
}

std::optional<std::string> Arguments::optional_text(int n) const {
	if (is_null(n))
		return std::nullopt;
	const Datum value = datum(n);
	text *plain = guard([value] { return DatumGetTextPP(value); });
	return std::string(VARDATA_ANY(plain), static_cast<size_t>(VARSIZE_ANY_EXHDR(plain)));
}

std::string Arguments::text_at(int n, const char *name, size_t longest) const {
	require(n, name);
	check_size(n, name, longest);
	std::string value = *optional_text(n);
	if (value.empty())
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, std::string(name) + " must not be empty");
	return value;
}

void Arguments::check_size(int n, const char *name, size_t longest) const {
	if (!is_null(n))
		bounds::check(name, bounds::size_of(datum(n)), longest);
}

std::optional<std::string> Arguments::optional_text(int n, const char *name, size_t longest) const {
	check_size(n, name, longest);
	return optional_text(n);
}

std::optional<std::string> Arguments::optional_remark(int n, size_t longest) const {
	if (is_null(n))
		return std::nullopt;
	const Datum value = datum(n);
	/* Reads only as much as can be kept, and a little more that shows whether the text is longer. */
	const auto most = static_cast<int32>(longest + MAX_MULTIBYTE_CHAR_LEN);
	text *plain = guard([value, most] { return reinterpret_cast<text *>(PG_DETOAST_DATUM_SLICE(value, 0, most)); });
	return bounds::cut({VARDATA_ANY(plain), static_cast<size_t>(VARSIZE_ANY_EXHDR(plain))}, longest);
}

std::vector<std::string> Arguments::texts_at(int n, const char *name) const {
	struct List {
		Datum *values;
		bool *nulls;
		int count;
	};
	const Datum array = datum(n);
	const List list = guard([array]() -> List {
		List result;
		deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &result.values, &result.nulls,
						  &result.count);
		for (int i = 0; i < result.count; i++)
			if (!result.nulls[i])
				result.values[i] = PointerGetDatum(DatumGetTextPP(result.values[i]));
		return result;
	});
	std::vector<std::string> texts;
	texts.reserve(static_cast<size_t>(list.count));
	for (int i = 0; i < list.count; i++) {
		if (list.nulls[i])
			throw Error(ERRCODE_NULL_VALUE_NOT_ALLOWED, std::string(name) + " must not contain nulls");
		const auto *element = DatumGetPointer(list.values[i]);
		texts.emplace_back(VARDATA_ANY(element), static_cast<size_t>(VARSIZE_ANY_EXHDR(element)));
	}
	return texts;
}

float4 Arguments::fraction_at(int n) const {
	require(n, "fraction");
	const float4 value = DatumGetFloat4(datum(n));
	if (!(value >= 0 && value <= 1))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "fraction must be between 0 and 1");
	return value;
}

std::optional<std::string> Arguments::optional_queue(int n) const {
	if (is_null(n))
		return std::nullopt;
	const size_t size = bounds::size_of(datum(n));
	if (size == 0 || size > bounds::queue)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "the name of a queue must have 1 to 63 bytes");
	return optional_text(n);
}

std::optional<TimestampTz> Arguments::optional_time(int n, const char *name) const {
	if (is_null(n))
		return std::nullopt;
	const TimestampTz value = DatumGetTimestampTz(datum(n));
	if (TIMESTAMP_NOT_FINITE(value))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, std::string(name) + " must be finite");
	return value;
}

std::optional<int64> Arguments::optional_duration(int n, const char *name) const {
	if (is_null(n))
		return std::nullopt;
	const Datum span = datum(n);
	const TimestampTz now = GetCurrentTimestamp();
	/* How long months and days are depends on the moment from which they are counted. */
	const TimestampTz then = guard([span, now] {
		return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), span));
	});
	if (TIMESTAMP_NOT_FINITE(then))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, std::string(name) + " must be finite");
	/* The caller adds the duration to a later moment: leave a day, so that this sum is in range, too. */
	if (then > END_TIMESTAMP - USECS_PER_DAY)
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, std::string(name) + " is out of range");
	if (then < now)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, std::string(name) + " must not be negative");
	return then - now;
}

std::optional<int32> Arguments::optional_limit(int n, const char *name, int32 most) const {
	if (is_null(n))
		return std::nullopt;
	const int32 value = DatumGetInt32(datum(n));
	if (value < 0 || value > most)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					std::string(name) + " must be between 0 and " + std::to_string(most));
	return value;
}

std::optional<Datum> Arguments::optional_period(int n, const char *name) const {
	constexpr int64 longest_us = 366 * USECS_PER_DAY;
	const std::optional<int64> period = optional_duration(n, name);
	if (period && *period > longest_us)
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, std::string(name) + " is out of range",
					"The maximum is 366 days.");
	return period ? std::optional(datum(n)) : std::nullopt;
}

std::string caller_name() {
	return guard([] { return GetUserNameFromId(GetUserId(), false); });
}

ResultSet::ResultSet(FunctionCallInfo fcinfo, Of what) : info_(reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)) {
	const bits32 flags = what == Of::bigint ? MAT_SRF_USE_EXPECTED_DESC : 0;
	guard([fcinfo, flags] { InitMaterializedSRF(fcinfo, flags); });
}

void ResultSet::add(int64 value) {
	ReturnSetInfo *const info = info_;
	guard([info, value] {
		Datum values[1] = {Int64GetDatum(value)};
		bool nulls[1] = {false};
		tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
	});
}

void ResultSet::add_values(std::span<const Datum> values, const bool *nulls) {
	ReturnSetInfo *const info = info_;
	guard([info, values, nulls] {
		tuplestore_putvalues(info->setResult, info->setDesc, const_cast<Datum *>(values.data()),
							 const_cast<bool *>(nulls));
	});
}

void ResultSet::add_row(HeapTuple row) {
	ReturnSetInfo *const info = info_;
	guard([info, row] { tuplestore_puttuple(info->setResult, row); });
}

void ResultSet::add_row(Datum composite) {
	ReturnSetInfo *const info = info_;
	guard([info, composite] {
		HeapTupleHeader header = DatumGetHeapTupleHeader(composite);
		HeapTupleData tuple;
		tuple.t_len = HeapTupleHeaderGetDatumLength(header);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		tuple.t_data = header;
		tuplestore_puttuple(info->setResult, &tuple);
	});
}

} // namespace jobqueue
