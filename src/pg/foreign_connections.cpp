/*
 * foreign_connections.cpp -- see foreign_connections.hpp. C region.
 *
 * Calls functions of the library itself, not of the catalog: nobody can have replaced them, and no right to them is
 * needed.
 */
#include "pg/foreign_connections.hpp"

namespace jobqueue {

static constinit bool loaded = false;
static constinit PGFunction get_connections = nullptr;
static constinit PGFunction disconnect = nullptr;

/* The path of dblink among the libraries of this process; null if it is not there. In the current memory context. */
static const char *find_dblink() {
	const Size size = EstimateLibraryStateSpace();
	auto *paths = static_cast<char *>(palloc(size));
	SerializeLibraryState(size, paths);
	for (const char *path = paths; *path != '\0'; path += strlen(path) + 1) {
		const char *const slash = strrchr(path, '/');
		if (strcmp(slash ? slash + 1 : path, "dblink" DLSUFFIX) == 0)
			return path;
	}
	return nullptr;
}

bool dblink_is_loaded() {
	static Size known_size = 0; /* of the names of all libraries: they only grow */
	if (loaded)
		return true;
	const Size size = EstimateLibraryStateSpace();
	if (size == known_size)
		return false;
	known_size = size;
	const char *const path = find_dblink();
	if (path == nullptr)
		return false;
	get_connections =
		reinterpret_cast<PGFunction>(load_external_function(path, "dblink_get_connections", true, nullptr));
	disconnect = reinterpret_cast<PGFunction>(load_external_function(path, "dblink_disconnect", true, nullptr));
	loaded = true;
	return true;
}

/* Calls a function of dblink; these look at how many arguments they have been given. */
static Datum call(PGFunction function, Datum *argument, bool *isnull) {
	LOCAL_FCINFO(fcinfo, 1);
	InitFunctionCallInfoData(*fcinfo, nullptr, argument ? 1 : 0, InvalidOid, nullptr, nullptr);
	if (argument) {
		fcinfo->args[0].value = *argument;
		fcinfo->args[0].isnull = false;
	}
	const Datum result = function(fcinfo);
	*isnull = fcinfo->isnull;
	return result;
}

void close_dblink_connections() {
	bool isnull;
	const Datum names = call(get_connections, nullptr, &isnull);
	if (!isnull) {
		Datum *values;
		int count;
		deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false, TYPALIGN_INT, &values, nullptr, &count);
		for (int i = 0; i < count; i++)
			call(disconnect, &values[i], &isnull);
	}
	/* Closes the connection without a name last, because this is an error if there is none. */
	call(disconnect, nullptr, &isnull);
}

} // namespace jobqueue
