-- Everything below is created with plain CREATE: if an object of that name already exists, the installation fails,
-- and the object does not become a part of the extension. A schema of that name that another role has made also makes
-- it fail, because its owner could drop what is in it. An empty schema of a superuser is dropped. The schema belongs to
-- the extension, and is dropped with it; therefore the control file names another schema.
DO $$
DECLARE
	schema_oid oid := pg_catalog.to_regnamespace('jobqueue');
BEGIN
	IF schema_oid IS NULL THEN
		RETURN;
	END IF;
	IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace n
			JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			WHERE n.oid OPERATOR(pg_catalog.=) schema_oid
				AND (r.rolsuper OR r.rolname OPERATOR(pg_catalog.=) CURRENT_USER))
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.=) schema_oid) THEN
		RAISE EXCEPTION 'schema "jobqueue" belongs to another role, or is not empty' USING ERRCODE = 'duplicate_schema',
			HINT = 'Drop or rename it; the extension creates its own schema.';
	END IF;
	DROP SCHEMA jobqueue;
END
$$;

CREATE SCHEMA jobqueue;
COMMENT ON SCHEMA jobqueue IS 'jobqueue: a job queue inside PostgreSQL';
REVOKE ALL ON SCHEMA jobqueue FROM PUBLIC;

-- A server, or a session, that has loaded the library of an older version does not have all of the functions below.
CREATE FUNCTION jobqueue.version() RETURNS text
	LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_version';
COMMENT ON FUNCTION jobqueue.version() IS 'version of the loaded library';

DO $$
DECLARE
	wanted text;
BEGIN
	SELECT e.extversion INTO STRICT wanted FROM pg_catalog.pg_extension e
		WHERE e.extname OPERATOR(pg_catalog.=) 'jobqueue';
	IF pg_catalog.string_to_array(jobqueue.version(), '.')::pg_catalog.int4[] OPERATOR(pg_catalog.<)
		pg_catalog.string_to_array(wanted, '.')::pg_catalog.int4[] THEN
		RAISE EXCEPTION 'version % of the library of jobqueue is loaded, which is older than %',
			jobqueue.version(), wanted
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = 'Restart the server if it preloads the library, otherwise begin a new session. Then repeat '
					'CREATE EXTENSION.';
	END IF;
END
$$;
