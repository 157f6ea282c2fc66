-- Everything below is created with plain CREATE: an object that already stands in the way makes the installation
-- fail instead of being adopted. So does a schema that somebody else has made: its owner could drop what is in it. An empty
-- one of a superuser's gives way. The schema belongs to the extension, and goes with it: that is why the control file
-- names another one.
DO $$
DECLARE
	schema_oid oid := pg_catalog.to_regnamespace('jobqueue');
BEGIN
	IF schema_oid IS NULL THEN
		RETURN;
	END IF;
	IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) n.nspowner
			WHERE n.oid OPERATOR(pg_catalog.=) schema_oid AND (r.rolsuper OR r.rolname OPERATOR(pg_catalog.=) CURRENT_USER))
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_class c WHERE c.relnamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) schema_oid)
		OR EXISTS (SELECT 1 FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.=) schema_oid) THEN
		RAISE EXCEPTION 'schema "jobqueue" is somebody else''s, or not empty' USING ERRCODE = 'duplicate_schema',
			HINT = 'Drop or rename it: the extension makes its own.';
	END IF;
	DROP SCHEMA jobqueue;
END
$$;

CREATE SCHEMA jobqueue;
COMMENT ON SCHEMA jobqueue IS 'jobqueue: a job queue inside PostgreSQL';
REVOKE ALL ON SCHEMA jobqueue FROM PUBLIC;
