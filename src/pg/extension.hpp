/*
 * extension.hpp -- the extension as it is installed in this database. Its version need not be that of this library:
 * between the installation of a new library and ALTER EXTENSION jobqueue UPDATE they differ.
 *
 * C++ region, but where it says otherwise.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

inline constexpr const char *library_version = JOBQUEUE_VERSION;

struct Extension {
	Oid oid;
	Oid owner;
	std::string version;
};

/* None if it is not installed. Needs a transaction, but no Session. */
std::optional<Extension> installed_extension();

/* Is the relation in the schema of the extension, which is installed? C region. */
bool is_in_own_schema(Oid relation);

/*
 * Was this error caused by the version of the extension: is something missing in the database, and are the versions
 * different? Then this throws an error that says so; otherwise it returns. Must not be called in a catch block.
 */
void blame_version(const PgError &error);

} // namespace jobqueue
