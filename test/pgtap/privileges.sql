-- Who may do what after CREATE EXTENSION: nobody anything; what belongs to the extension, and what pg_dump saves.
BEGIN;
SELECT no_plan();

-- nothing for PUBLIC
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) a WHERE
	pronamespace = 'jobqueue'::regnamespace AND a.grantee = 0 AND proname <> '_check_task'$$,
		'no function is for PUBLIC, but for the check of a row');
SELECT is_empty($$SELECT oid::regclass FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner))) a
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind IN ('r', 'p', 'v') AND a.grantee = 0$$,
	'no table is for PUBLIC');
SELECT is_empty($$SELECT oid::regclass FROM pg_class, aclexplode(coalesce(relacl, acldefault('s', relowner))) a
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind = 'S' AND a.grantee = 0$$, 'no sequence is for PUBLIC');
SELECT is_empty($$SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid,
	aclexplode(attacl) a WHERE c.relnamespace = 'jobqueue'::regnamespace AND a.grantee = 0$$,
		'no column is for PUBLIC');
SELECT is_empty($$SELECT nspname FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
	WHERE nspname = 'jobqueue' AND a.grantee = 0$$, 'the schema is not for PUBLIC');
-- nor for any other role but the owner
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc, aclexplode(proacl) a WHERE pronamespace =
	'jobqueue'::regnamespace AND a.grantee <> proowner AND proname <> '_check_task'$$,
		'functions: the owner''s only, but for the check of a row');
SELECT is_empty($$SELECT oid::regclass FROM pg_class, aclexplode(relacl) a WHERE relnamespace = 'jobqueue'::regnamespace
	AND a.grantee <> relowner AND NOT (a.grantee = 'pg_database_owner'::regrole AND a.privilege_type = 'SELECT')$$,
	'tables: the owner''s only, but for what the owner of the database reads');
CREATE ROLE pgtap_nobody;
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
	AND proname <> '_check_task' AND has_function_privilege('pgtap_nobody', oid, 'EXECUTE')$$,
	'a role without rights calls nothing, but for the check of a row');
SELECT is_empty($$SELECT oid::regclass FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace AND relkind
	IN ('r', 'p', 'v')
	AND has_table_privilege('pgtap_nobody', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')$$,
	'... and reads and writes nothing');
SELECT ok(NOT has_schema_privilege('pgtap_nobody', 'jobqueue', 'USAGE, CREATE'), '... and does not get in');

-- the levels, by the catalog: nobody may write what is forgery, or run what is a higher level's
CREATE ROLE pgtap_producer;
CREATE ROLE pgtap_consumer;
CREATE ROLE pgtap_manager;
CREATE ROLE pgtap_sql;
SELECT lives_ok($$SELECT jobqueue.grant_access('pgtap_producer', 'producer'),
	jobqueue.grant_access('pgtap_consumer', 'consumer'), jobqueue.grant_access('pgtap_manager', 'manager'),
		jobqueue.grant_access('pgtap_sql', 'sql')$$, 'the levels are granted');
SELECT is((SELECT array_agg(attname::text) FROM pg_attribute
	WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND NOT has_column_privilege('pgtap_producer', attrelid,
	attnum, 'INSERT')), '{id}'::text[], 'a producer inserts every column but the id, as the policy says');
SELECT is((SELECT array_agg(attname::text ORDER BY attname COLLATE "C") FROM pg_attribute
	WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND has_column_privilege('pgtap_producer', attrelid,
	attnum, 'SELECT')),
	(SELECT array_agg(attname::text ORDER BY attname COLLATE "C") FROM pg_attribute
		WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND attname <> 'failures'),
		'what a producer reads, of its own tasks: not the details of errors');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'jobqueue'::regnamespace AND relkind
	IN ('r', 'p') AND NOT relrowsecurity AND relname <> 'incarnation'$$,
		'D2: row-level security on every table but incarnation, which everybody''s statements ask, or '
		'pg_read_all_data reads it');
SELECT is_empty($$SELECT * FROM pg_policies WHERE schemaname = 'jobqueue'$$,
	'... with policies that pg_dump does not see');
SELECT is((SELECT array_agg(attname::text ORDER BY attname COLLATE "C") FROM pg_attribute
	WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND has_column_privilege('pgtap_consumer', attrelid,
	attnum, 'UPDATE')),
	'{processed_at,status,updated_at}'::text[], 'what a consumer updates');
SELECT is_empty($$SELECT attname FROM pg_attribute WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0
	AND has_column_privilege('pgtap_manager', attrelid, attnum, 'INSERT, UPDATE')$$,
	'a manager writes by functions only');
SELECT is_empty($$SELECT attname FROM pg_attribute WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0
	AND has_column_privilege('pgtap_sql', attrelid, attnum, 'INSERT, UPDATE')$$,
	'... as does who enqueues SQL commands');
SELECT is((SELECT array_agg(attname::text ORDER BY attname COLLATE "C") FROM pg_attribute
	WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND NOT has_column_privilege('pgtap_sql', attrelid,
	attnum, 'SELECT')), '{failures}'::text[], '... who reads its own tasks, as a producer does');
-- every function and every relation, by level
SELECT results_eq(
	$$SELECT p.oid::regprocedure::text COLLATE "default",
		concat_ws(' ', CASE WHEN has_function_privilege('pgtap_producer', p.oid, 'EXECUTE') THEN 'producer' END,
		CASE WHEN has_function_privilege('pgtap_consumer', p.oid, 'EXECUTE') THEN 'consumer' END,
			CASE WHEN has_function_privilege('pgtap_manager', p.oid, 'EXECUTE') THEN 'manager' END,
		CASE WHEN has_function_privilege('pgtap_sql', p.oid, 'EXECUTE') THEN 'sql' END)
	  FROM pg_proc p WHERE p.pronamespace = 'jobqueue'::regnamespace AND (proname !~ '^_' OR proname = '_workers')
	  ORDER BY p.proname COLLATE "C", p.pronargs$$,
	$$VALUES ('jobqueue._workers()', 'manager'),
		('jobqueue.adopt()', ''),
		('jobqueue.alter_handler(text,regprocedure,text,name,integer,text,regprocedure,interval,interval,real,'
			'interval,text[],text,integer,integer,integer,interval,integer,integer,text)', 'manager'),
		('jobqueue.alter_queue(text,integer,integer,integer,interval,integer,integer,boolean,integer,interval,'
			'integer,interval)', 'manager'),
		('jobqueue.cancel(bigint,text)', 'manager'),
		('jobqueue.cancel_tasks(text,text,text,timestamp with time zone,timestamp with time zone,integer)', 'manager'),
		('jobqueue.claim(text,integer,interval,text[],text)', 'consumer'),
		('jobqueue.claim_json(text,integer,interval,text[],text)', 'consumer'),
		('jobqueue.complete(bigint,integer,jsonb)', 'consumer'),
		('jobqueue.complete_and_claim(bigint[],integer[],jsonb[],text,integer,interval,text[],text)', 'consumer'),
		('jobqueue.complete_and_claim_json(bigint[],integer[],jsonb[],text,integer,interval,text[],text)', 'consumer'),
		('jobqueue.complete_many(bigint[],integer[],jsonb[])', 'consumer'),
		('jobqueue.current_task()', 'producer consumer manager sql'),
		('jobqueue.delete_tasks(text,text,text,timestamp with time zone,timestamp with time zone,integer)', 'manager'),
		('jobqueue.discard(text)', 'producer consumer manager sql'),
		('jobqueue.discard(bigint,integer,text)', 'consumer'),
		('jobqueue.drain(text,integer,boolean,boolean)', 'consumer manager'),
		('jobqueue.enqueue(text,jsonb,text,integer,timestamp with time '
			'zone,interval,integer,interval,text,text,text,bigint[],text,jsonb,text)', 'producer'),
		('jobqueue.enqueue_flow(jsonb)', 'producer'),
		('jobqueue.enqueue_many(text,jsonb[],text,integer,timestamp with time '
			'zone,interval,integer,interval,text,bigint[],text,jsonb)', 'producer'),
		('jobqueue.enqueue_row()', 'producer'),
		('jobqueue.enqueue_sql(text,text,interval,timestamp with time zone)', 'sql'),
		('jobqueue.enqueue_unique(text,jsonb,text,integer,timestamp with time '
			'zone,interval,integer,interval,text,text,text,bigint[],text,jsonb,text,interval)', 'producer'),
		('jobqueue.extend_lease(bigint,integer,interval)', 'consumer'),
		('jobqueue.fail(bigint,integer,text,text,interval,boolean)', 'consumer'),
		('jobqueue.grant_access(name,text,text)', ''),
		('jobqueue.limit_role(name,integer,integer,integer,integer)', ''),
		('jobqueue.next_runs(text,integer,text,timestamp with time zone)', 'producer consumer manager sql'),
		('jobqueue.parent_results()', 'producer consumer manager sql'),
		('jobqueue.parent_results(bigint,integer)', 'consumer'),
		('jobqueue.pause_queue(text)', 'manager'),
		('jobqueue.pause_schedule(text)', 'manager sql'),
		('jobqueue.purge_queue(text)', 'manager'),
		('jobqueue.register_handler(text,regprocedure,text,name,integer,text,regprocedure,interval,interval,real,'
			'interval,text[],text,integer,integer,integer,interval,integer,integer,text)', 'manager'),
		('jobqueue.release(bigint,integer)', 'consumer'),
		('jobqueue.resume_queue(text)', 'manager'),
		('jobqueue.resume_schedule(text)', 'manager sql'),
		('jobqueue.retry(bigint,timestamp with time zone)', 'manager'),
		('jobqueue.retry_failed(text,text,timestamp with time zone,timestamp with time zone,integer)', 'manager'),
		('jobqueue.revoke_access(name,text,text)', ''),
		('jobqueue.schedule(text,text,text,jsonb,text,text,integer,text,integer,text)', 'manager'),
		('jobqueue.schedule_sql(text,text,text,text,text,interval,text,integer,text,name)', 'sql'),
		('jobqueue.set_progress(real,text)', 'producer consumer manager sql'),
		('jobqueue.set_progress(bigint,integer,real,text)', 'consumer'),
		('jobqueue.snooze(interval)', 'producer consumer manager sql'),
		('jobqueue.snooze(bigint,integer,interval)', 'consumer'),
		('jobqueue.unregister_handler(text)', 'manager'),
		('jobqueue.unschedule(text)', 'manager sql'),
		('jobqueue.version()', 'producer consumer manager sql'),
		('jobqueue.wait_for(bigint,interval)', 'producer consumer manager sql')$$,
	'who may call what');
SELECT results_eq(
	$$SELECT c.oid::regclass::text COLLATE "default", concat_ws(' ', CASE WHEN has_table_privilege('pgtap_producer',
		c.oid, 'SELECT') THEN 'producer' END,
		CASE WHEN has_table_privilege('pgtap_consumer', c.oid, 'SELECT') THEN 'consumer' END,
			CASE WHEN has_table_privilege('pgtap_manager', c.oid, 'SELECT') THEN 'manager' END,
		CASE WHEN has_table_privilege('pgtap_sql', c.oid, 'SELECT') THEN 'sql' END)
	  FROM pg_class c WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND
	  NOT c.relispartition ORDER BY c.relname COLLATE "C"$$,
	$$VALUES ('jobqueue._watched_queues', ''),
		('jobqueue.access', ''),
		('jobqueue.access_status', ''),
		('jobqueue.dependencies', ''),
		('jobqueue.dependents', ''),
		('jobqueue.handlers', 'manager'),
		('jobqueue.history_ring', ''),
		('jobqueue.history_status', ''),
		('jobqueue.incarnation', ''),
		('jobqueue.limits', ''),
		('jobqueue.parents', ''),
		('jobqueue.queue_status', 'consumer manager'),
		('jobqueue.queues', 'manager'),
		('jobqueue.running_tasks', 'manager'),
		('jobqueue.schedules', 'manager'),
		('jobqueue.shared_capacity', ''),
		('jobqueue.tasks', 'consumer manager'),
		('jobqueue.unique_keys', ''),
		('jobqueue.worker_status', 'manager')$$,
	'who may read what');
SELECT is_empty($$SELECT r, c.oid::regclass FROM unnest(
	'{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r, pg_class c
	WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relispartition AND c.relkind = 'r'
	AND has_any_column_privilege(r, c.oid, 'SELECT, INSERT, UPDATE')$$, 'nobody gets at a leaf directly');
SELECT is_empty($$SELECT r, c.oid::regclass FROM unnest(
	'{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r, pg_class c
	WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind IN ('r', 'p', 'v')
	AND has_table_privilege(r, c.oid, 'DELETE, TRUNCATE, REFERENCES, TRIGGER')$$, 'nobody deletes, or adds triggers');
SELECT is_empty($$SELECT r, c.oid::regclass FROM unnest(
	'{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r, pg_class c
	WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind = 'r'
	AND has_any_column_privilege(r, c.oid, 'INSERT, UPDATE')$$, 'nobody writes to the configuration');
SELECT is_empty($$SELECT r FROM unnest('{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r
	WHERE has_schema_privilege(r, 'jobqueue', 'CREATE')$$, 'nobody creates in the schema');
SELECT is_empty($$SELECT r, f FROM unnest('{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r,
	unnest('{jobqueue.adopt(),"jobqueue.grant_access(name,text,text)",'
		'"jobqueue.revoke_access(name,text,text)",'
		'"jobqueue.limit_role(name,integer,integer,integer,integer)"}'::text[]) f
	WHERE has_function_privilege(r, f, 'EXECUTE')$$, 'administration is the owner''s');
SELECT is_empty($$SELECT r, oid::regprocedure FROM unnest(
	'{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r, pg_proc
	WHERE pronamespace = 'jobqueue'::regnamespace AND proname ~ '^_' AND proname <> ALL ('{_workers,_check_task}')
	AND has_function_privilege(r, oid, 'EXECUTE')$$, 'internal functions are not for calling');
SELECT is_empty($$SELECT r, a.privilege_type FROM unnest(
	'{pgtap_producer,pgtap_consumer,pgtap_manager,pgtap_sql}'::name[]) r JOIN pg_roles ON rolname = r,
	pg_class, aclexplode(relacl) a WHERE relnamespace = 'jobqueue'::regnamespace AND a.grantee = pg_roles.oid
		AND a.is_grantable$$, 'no right can be passed on');
SELECT lives_ok($$SELECT jobqueue.revoke_access('pgtap_producer', 'producer'),
	jobqueue.revoke_access('pgtap_consumer', 'consumer'), jobqueue.revoke_access('pgtap_manager', 'manager'),
		jobqueue.revoke_access('pgtap_sql', 'sql')$$, 'the levels are revoked');
SELECT is_empty($$SELECT classid::regclass, objid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid
	IN (SELECT oid FROM pg_roles WHERE rolname LIKE 'pgtap\_%')
	AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())$$, 'and leave nothing behind');

-- a function runs with its caller's path only if it is C, and never with its owner's rights without a path of its own
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
	AND prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c') AND
	NOT coalesce(proconfig::text LIKE '%search_path=%', false)$$, 'every function is C or pins its search path');
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace AND prosecdef AND
	NOT coalesce(proconfig::text LIKE '%search_path=%', false)$$, 'no SECURITY DEFINER without a search path');
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc, unnest(proconfig) setting WHERE pronamespace =
	'jobqueue'::regnamespace AND setting LIKE 'search_path=%' AND setting !~ 'pg_temp"?$'$$,
		'temporary objects come last in every pinned path');
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
	AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c') AND probin NOT LIKE '%jobqueue%'$$,
	'C functions are in the library');

-- everything in the schema belongs to the extension, and everything that belongs to it is in the schema
SELECT is_empty($$SELECT o.classid::regclass, o.objid FROM (
		SELECT 'pg_class'::regclass AS classid, oid AS objid FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace
			AND relkind IN ('r', 'p', 'v', 'S')
		UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'jobqueue'::regnamespace
			AND typrelid = 0 AND typelem = 0
		UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace = 'jobqueue'::regnamespace) o
	WHERE NOT EXISTS (SELECT 1 FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = o.classid
	AND d.objid = o.objid AND d.deptype = 'e'
		AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'jobqueue')$$,
		'the extension owns every object of its schema');
SELECT is_empty($$SELECT c.oid::regclass FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid WHERE e.extname = 'jobqueue'
		AND c.relnamespace <> 'jobqueue'::regnamespace$$, 'no table elsewhere');
SELECT is_empty($$SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
	AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
	JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid WHERE e.extname = 'jobqueue'
		AND p.pronamespace <> 'jobqueue'::regnamespace$$, 'no function elsewhere');
SELECT is((SELECT extrelocatable FROM pg_extension WHERE extname = 'jobqueue'), false, 'it stays in its schema');

-- what pg_dump saves: every table and sequence
SELECT is_empty($$SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'jobqueue'::regnamespace AND relkind
	IN ('r', 'p', 'S')
	AND NOT EXISTS (SELECT 1 FROM pg_extension, unnest(extconfig) t WHERE extname = 'jobqueue' AND t = c.oid)$$,
	'every table, leaf and sequence is dumped');
SELECT is_empty($$SELECT c FROM pg_extension, unnest(extcondition) c WHERE extname = 'jobqueue' AND c <> ''$$,
	'with all its rows');
SELECT is((SELECT count(*) FROM pg_depend WHERE classid = 'pg_class'::regclass
	AND objid = 'jobqueue.tasks_id_seq'::regclass AND deptype = 'a' AND refobjid = 'jobqueue.tasks'::regclass),
	1::bigint, 'the sequence is the id''s');
SELECT is((SELECT count(*) FROM jobqueue.incarnation), 1::bigint, 'one installation, with a row of its own');
SELECT is((SELECT count(*) FROM jobqueue.handlers), 0::bigint, 'no handlers yet');

SELECT * FROM finish();
ROLLBACK;
