/*
 * extension.cpp -- see extension.hpp. C++ region, but where it says otherwise; what is given to guard is C.
 */
#include "pg/extension.hpp"

namespace jobqueue {

/* C region. */
bool is_in_own_schema(Oid relation) {
	const Oid schema = get_namespace_oid("jobqueue", true);
	return OidIsValid(relation) && OidIsValid(schema) && get_rel_namespace(relation) == schema &&
		   OidIsValid(get_extension_oid("jobqueue", true));
}

std::optional<Extension> installed_extension() {
	struct Found {
		Oid oid;
		Oid owner;
		const char *version;
	};
	const Found found = guard([]() -> Found {
		Found result = {};
		Relation relation = table_open(ExtensionRelationId, AccessShareLock);
		ScanKeyData key;
		ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("jobqueue"));
		SysScanDesc scan = systable_beginscan(relation, ExtensionNameIndexId, true, nullptr, 1, &key);
		HeapTuple tuple = systable_getnext(scan);
		if (HeapTupleIsValid(tuple)) {
			auto *form = reinterpret_cast<Form_pg_extension>(GETSTRUCT(tuple));
			bool isnull;
			const Datum version =
				heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(relation), &isnull);
			result = {form->oid, form->extowner, isnull ? "" : TextDatumGetCString(version)};
		}
		systable_endscan(scan);
		table_close(relation, AccessShareLock);
		return result;
	});
	if (!OidIsValid(found.oid))
		return std::nullopt;
	return Extension{found.oid, found.owner, found.version};
}

static bool says_that_something_is_missing(const PgError &error) noexcept {
	switch (error.sqlerrcode()) {
	case ERRCODE_UNDEFINED_COLUMN:
	case ERRCODE_UNDEFINED_FUNCTION:
	case ERRCODE_UNDEFINED_TABLE:
		return true;
	default:
		return false;
	}
}

void blame_version(const PgError &error) {
	if (!says_that_something_is_missing(error))
		return;
	const std::optional<Extension> extension = installed_extension();
	if (!extension || extension->version == library_version)
		return;
	const char *const version = extension->version.c_str();
	const char *const missing = error.what();
	guard([version, missing] {
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the extension jobqueue has version %s in this database, its library %s", version,
							   library_version),
						errdetail_internal("%s", missing),
						errhint("Run ALTER EXTENSION jobqueue UPDATE, or restart the server with the new library.")));
	});
}

} // namespace jobqueue
