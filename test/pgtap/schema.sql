-- What CREATE EXTENSION makes: tables, columns, leaves, indexes, constraints, triggers, functions, comments.
BEGIN;
SELECT no_plan();

SELECT has_schema('jobqueue');
SELECT is((SELECT array_agg(relname ORDER BY relname COLLATE "C") FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind IN ('r', 'p')),
	'{access,dependencies,dependents,handlers,history_ring,incarnation,limits,parents,queues,schedules,tasks,'
		'tasks_failed,tasks_history_1,tasks_history_2,tasks_history_3,tasks_history_4,tasks_history_5,'
		'tasks_history_6,tasks_history_7,tasks_history_8,tasks_live,unique_keys}'::name[],
	'the tables');
SELECT is((SELECT array_agg(relname ORDER BY relname COLLATE "C") FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind IN ('v', 'm', 'f')),
	'{_watched_queues,access_status,history_status,queue_status,running_tasks,shared_capacity,worker_status}'::name[],
		'the views');
SELECT is((SELECT array_agg(relname) FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace AND relkind = 'S'),
	'{tasks_id_seq}'::name[], 'the sequence');

-- tasks: the columns, in the order of the documentation
SELECT results_eq(
	$$SELECT attname::text COLLATE "default", format_type(atttypid, atttypmod), attnotnull,
		pg_get_expr(adbin, adrelid) COLLATE "default"
	  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	  WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum$$,
	$$VALUES ('id', 'bigint', true, 'nextval(''jobqueue.tasks_id_seq''::regclass)'),
		('type', 'text', true, NULL),
		('payload', 'jsonb', true, '''{}''::jsonb'),
		('status', 'text', true, '''pending''::text'),
		('created_at', 'timestamp with time zone', true, 'now()'),
		('updated_at', 'timestamp with time zone', true, 'now()'),
		('processed_at', 'timestamp with time zone', false, NULL),
		('queue', 'text', true, '''default''::text'),
		('priority', 'smallint', true, '0'),
		('run_at', 'timestamp with time zone', false, NULL),
		('attempts', 'integer', true, '0'),
		('max_attempts', 'integer', false, NULL),
		('finished_at', 'timestamp with time zone', false, NULL),
		('lease_expires_at', 'timestamp with time zone', false, NULL),
		('claimed_by', 'text', false, NULL),
		('last_error', 'text', false, NULL),
		('last_sqlstate', 'text', false, NULL),
		('result', 'jsonb', false, NULL),
		('unique_key', 'text', false, NULL),
		('group_key', 'text', false, NULL),
		('created_by', 'name', true, 'CURRENT_USER'),
		('metadata', 'jsonb', false, NULL),
		('timeout', 'interval', false, NULL),
		('crashes', 'integer', true, '0'),
		('failures', 'jsonb', false, NULL),
		('origin_queue', 'text', false, NULL),
		('progress', 'real', false, NULL),
		('progress_message', 'text', false, NULL),
		('unique_scope', 'text', false, NULL),
		('slot', 'smallint', true, '0')$$,
	'the columns of tasks');
-- handlers: likewise
SELECT results_eq(
	$$SELECT attname::text COLLATE "default", format_type(atttypid, atttypmod), attnotnull,
		pg_get_expr(adbin, adrelid) COLLATE "default"
	  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	  WHERE attrelid = 'jobqueue.handlers'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum$$,
	$$VALUES ('type', 'text', true, NULL),
		('handler', 'text', true, NULL),
		('queue', 'text', true, '''default''::text'),
		('run_as', 'name', true, NULL),
		('run_as_oid', 'oid', true, '0'),
		('function_owner', 'oid', true, '0'),
		('backoff_owner', 'oid', true, '0'),
		('max_attempts', 'integer', true, '20'),
		('backoff', 'text', true, '''exponential''::text'),
		('backoff_function', 'text', false, NULL),
		('first_delay', 'interval', true, '''00:00:05''::interval'),
		('max_delay', 'interval', true, '''01:00:00''::interval'),
		('jitter', 'real', true, '0.2'),
		('timeout', 'interval', false, NULL),
		('discard_sqlstates', 'text[]', false, NULL),
		('dead_letter_queue', 'text', false, NULL),
		('max_running', 'integer', false, NULL),
		('batch_size', 'integer', true, '1'),
		('rate_limit', 'integer', false, NULL),
		('rate_period', 'interval', false, NULL),
		('rate_burst', 'integer', false, NULL),
		('group_limit', 'integer', false, NULL),
		('rate_changed_at', 'timestamp with time zone', false, NULL),
		('governed', 'boolean', true, 'false'),
		('incarnation', 'uuid', true, NULL),
		('created_at', 'timestamp with time zone', true, 'now()'),
		('updated_at', 'timestamp with time zone', true, 'now()'),
		('on_failure', 'text', false, NULL)$$,
	'the columns of handlers');
SELECT results_eq(
	$$SELECT attname::text COLLATE "default", format_type(atttypid, atttypmod), attnotnull,
		pg_get_expr(adbin, adrelid) COLLATE "default"
	  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	  WHERE attrelid = 'jobqueue.schedules'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum$$,
	$$VALUES ('name', 'text', true, NULL),
		('cron', 'text', true, NULL),
		('type', 'text', true, NULL),
		('payload', 'jsonb', true, '''{}''::jsonb'),
		('command', 'text', false, NULL),
		('time_zone', 'text', true, '''UTC''::text'),
		('queue', 'text', false, NULL),
		('priority', 'smallint', true, '0'),
		('timeout', 'interval', false, NULL),
		('on_misfire', 'text', true, '''once''::text'),
		('misfire_limit', 'integer', true, '10'),
		('on_overlap', 'text', true, '''allow''::text'),
		('next_run_at', 'timestamp with time zone', false, NULL),
		('last_run_at', 'timestamp with time zone', false, NULL),
		('last_task_id', 'bigint', false, NULL),
		('held', 'timestamp with time zone[]', true, '''{}''::timestamp with time zone[]'),
		('last_error', 'text', false, NULL),
		('paused_at', 'timestamp with time zone', false, NULL),
		('created_by', 'name', true, 'CURRENT_USER'),
		('created_by_oid', 'oid', true, '0'),
		('governed', 'boolean', true, 'false'),
		('anchor', 'timestamp with time zone', true, 'now()'),
		('incarnation', 'uuid', true, NULL),
		('created_at', 'timestamp with time zone', true, 'now()'),
		('updated_at', 'timestamp with time zone', true, 'now()')$$,
	'the columns of schedules');
SELECT throws_ok(format($$INSERT INTO jobqueue.schedules (name, cron, type, incarnation, %s)
	VALUES (%s, '@daily', 't', gen_random_uuid(), %s)$$, c, CASE WHEN c = 'priority' THEN quote_literal('') ELSE
		quote_literal('n') END, v),
	'23514', NULL, format('a schedule with %s %s', c, v))
FROM (VALUES ('queue', ''''''), ('queue', 'repeat(''q'', 64)'), ('timeout', '''0'''), ('on_misfire', '''twice'''),
('misfire_limit', '0'), ('misfire_limit', '10001'), ('on_overlap', '''wait'''), ('priority', '0')) v(c, v);
SELECT is((SELECT count(*) FROM pg_attribute WHERE attrelid = 'jobqueue.tasks'::regclass AND attidentity <> ''),
	0::bigint, 'no identity column: it is null on inserts into a leaf');

-- the leaves
SELECT is(pg_get_partkeydef('jobqueue.tasks'::regclass), 'LIST (slot)', 'tasks is partitioned by slot');
SELECT results_eq(
	$$SELECT c.relname::text COLLATE "default", pg_get_expr(c.relpartbound, c.oid) COLLATE "default" FROM pg_inherits i
		JOIN pg_class c ON c.oid = i.inhrelid
	  WHERE i.inhparent = 'jobqueue.tasks'::regclass ORDER BY c.relname COLLATE "C"$$,
	$$SELECT * FROM (SELECT 'tasks_failed', 'FOR VALUES IN (''-1'')' UNION ALL
		SELECT 'tasks_history_' || n, format('FOR VALUES IN (''%s'')', n) FROM generate_series(1, 8) n UNION ALL
		SELECT 'tasks_live', 'FOR VALUES IN (''0'')') l(name, bound) ORDER BY name COLLATE "C"$$,
	'the leaves and what is in them');
SELECT is_empty(
	$$SELECT l.relname, p.attname FROM pg_inherits i JOIN pg_class l ON l.oid = i.inhrelid
	  JOIN pg_attribute p ON p.attrelid = 'jobqueue.tasks'::regclass AND p.attnum > 0
	  LEFT JOIN pg_attrdef pd ON pd.adrelid = p.attrelid AND pd.adnum = p.attnum
	  LEFT JOIN pg_attribute a ON a.attrelid = l.oid AND a.attname = p.attname
	  LEFT JOIN pg_attrdef ad ON ad.adrelid = a.attrelid AND ad.adnum = a.attnum
	  WHERE i.inhparent = p.attrelid
	    AND (a.attnum, a.atttypid, a.attnotnull, pg_get_expr(ad.adbin, ad.adrelid)) IS DISTINCT
	    FROM (p.attnum, p.atttypid, p.attnotnull, pg_get_expr(pd.adbin, pd.adrelid))$$,
	'every leaf has the columns of tasks, at the same places, with the same defaults');

-- indexes: on the leaves, none on the parent, and no others
SELECT is_empty($$SELECT indexrelid::regclass FROM pg_index WHERE indrelid = 'jobqueue.tasks'::regclass$$,
	'no index on the parent: a restore would fail');
SELECT is((SELECT array_agg(indexrelid::regclass::text ORDER BY indexrelid::regclass::text) FROM pg_index
	WHERE indrelid = 'jobqueue.tasks_live'::regclass),
	'{jobqueue.tasks_live_due,jobqueue.tasks_live_finished,jobqueue.tasks_live_group,jobqueue.tasks_live_lease,'
		'jobqueue.tasks_live_next,jobqueue.tasks_live_pkey,jobqueue.tasks_live_unique_key}'::text[],
	'the indexes of tasks_live: each is paid for at every enqueue');
SELECT index_is_unique('jobqueue', 'tasks_live', 'tasks_live_unique_key');
SELECT results_eq(
	$$SELECT relname::text COLLATE "default", pg_get_indexdef(oid, 1, true), pg_get_indexdef(oid, 2, true),
		pg_get_indexdef(oid, 3, true) FROM pg_class
	  WHERE oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'jobqueue.tasks_live'::regclass)
	  ORDER BY relname COLLATE "C"$$,
	$$VALUES ('tasks_live_due', 'run_at', 'id', ''), ('tasks_live_finished', 'updated_at', 'id', ''),
		('tasks_live_group', 'queue', 'priority', 'group_key'), ('tasks_live_lease', 'lease_expires_at', 'id', ''),
		('tasks_live_next', 'queue', 'priority', 'id'), ('tasks_live_pkey', 'id', '', ''),
			('tasks_live_unique_key', 'type', 'unique_key', '')$$,
	'their columns');
SELECT alike((SELECT pg_get_expr(indpred, indrelid) FROM pg_index WHERE indexrelid = ('jobqueue.' || i)::regclass),
	'%' || what || '%', i || ' is partial')
FROM (VALUES ('tasks_live_next', 'pending'), ('tasks_live_due', 'scheduled'), ('tasks_live_lease', 'processing'),
('tasks_live_unique_key', 'unique_key IS NOT NULL'), ('tasks_live_unique_key', 'live'),
	('tasks_live_unique_key', 'completed'),
	('tasks_live_finished', 'completed'), ('tasks_live_group', 'group_key IS NOT NULL'),
		('tasks_live_next', 'group_key IS NULL')) v(i, what);
SELECT is((SELECT array_agg(DISTINCT pg_get_indexdef(indexrelid, 1, true) || indisprimary) FROM pg_index WHERE indrelid
	IN
	(SELECT inhrelid FROM pg_inherits WHERE inhparent = 'jobqueue.tasks'::regclass
		AND inhrelid <> 'jobqueue.tasks_live'::regclass)), '{finished_atfalse,idtrue}'::text[],
	'the other leaves have their primary key, on id, and that of failed tasks their ends');
SELECT is((SELECT count(*) FROM pg_index WHERE indisprimary AND indrelid
	IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'jobqueue.tasks'::regclass)), 10::bigint,
		'each leaf has one');
SELECT col_is_pk('jobqueue', 'handlers', 'type', 'one handler for a type');
SELECT col_is_pk('jobqueue', 'queues', 'queue', 'one row for a queue');
SELECT col_is_pk('jobqueue', 'unique_keys', ARRAY['type', 'unique_key'], 'one row for a key of a type');
SELECT results_eq(
	$$SELECT attname::text COLLATE "default", format_type(atttypid, atttypmod), attnotnull, atthasdef FROM pg_attribute
	  WHERE attrelid = 'jobqueue.unique_keys'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum$$,
	$$VALUES ('type', 'text', true, false), ('unique_key', 'text', true, false), ('task_id', 'bigint', true, false),
		('expires_at', 'timestamp with time zone', true, false)$$,
	'the columns of unique_keys');
SELECT throws_ok(format($$INSERT INTO jobqueue.tasks (type, unique_scope) VALUES ('t', %L)$$, s), '23514', NULL,
	'an unknown unique_scope: ' || s) FROM unnest('{ever,""}'::text[]) s;
SELECT col_is_pk('jobqueue', 'incarnation', 'id', 'incarnations are told apart');
SELECT col_is_pk('jobqueue', 'schedules', 'name', 'one schedule of a name');
SELECT is((SELECT array_agg(c.relname || ' ' || pg_get_indexdef(indexrelid, 1, true) || ' ' ||
	pg_get_indexdef(indexrelid, 2, true) ORDER BY c.relname COLLATE "C") FROM pg_index
	JOIN pg_class c ON c.oid = indrelid WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relname
		IN ('dependencies', 'dependents', 'parents')),
	'{"dependencies parent_id child_id","dependents id ","parents id "}'::text[],
		'dependencies: one index for each table');
SELECT throws_ok($$INSERT INTO jobqueue.dependents (id, parents, waits_for, on_parent_failure)
	VALUES (1, '{2}', 1, 'explode')$$, '23514', NULL, 'an unknown policy');
SELECT throws_ok($$INSERT INTO jobqueue.parents (id, status) VALUES (1, 'pending')$$, '23514', NULL,
	'a parent that has not ended');

-- constraints
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type, status) VALUES ('t', 'done')$$, '23514', NULL,
	'an unknown status');
SELECT lives_ok(format($$INSERT INTO jobqueue.tasks_live (type, status) VALUES ('t', %L)$$, s), 'a known status: ' || s)
FROM unnest('{pending,scheduled,blocked,processing,completed,failed,cancelled}'::text[]) s;
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type) VALUES ('')$$, '23514', NULL, 'an empty type');
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type) VALUES (NULL)$$, '23502', NULL, 'no type');
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('t', '')$$, '23514', NULL, 'an empty queue');
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type, queue) VALUES ('t', repeat('q', 64))$$, '23514', NULL,
	'a queue of 64 bytes');
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type, max_attempts) VALUES ('t', 0)$$, '23514', NULL, 'no attempts');
SELECT throws_ok(format($$INSERT INTO jobqueue.tasks (type, timeout) VALUES ('t', %L)$$, t), '23514', NULL,
	'a timeout of ' || t) FROM unnest('{0,-1 s,1 day -25 hours}'::text[]) t;
SELECT lives_ok($$INSERT INTO jobqueue.tasks (type, timeout) VALUES ('t', '1 microsecond'), ('t', '1000 years')$$,
	'timeouts, short and long');
SELECT throws_ok(format($$INSERT INTO jobqueue.tasks (type, failures) VALUES ('t', %L)$$, f), '23514', NULL,
	'failures that are no array: ' || f) FROM unnest('{"null","{}",1}'::text[]) f;
SELECT lives_ok($$INSERT INTO jobqueue.tasks (type, failures) VALUES ('t', '[]')$$, 'an array of failures');
SELECT throws_ok(format($$INSERT INTO jobqueue.handlers (type, handler, run_as, incarnation, %s)
	VALUES ('t', 'f', 'r', gen_random_uuid(), %s)$$, c, v), '23514', NULL, format('a handler with %s %s', c, v))
FROM (VALUES ('queue', ''''''), ('queue', 'repeat(''q'', 64)'), ('max_attempts', '0'), ('backoff', '''quadratic'''),
('jitter', '-0.1'), ('jitter', '1.1'), ('jitter', '''NaN'''),
	('timeout', '''0'''), ('timeout', '''-1 s'''), ('dead_letter_queue', ''''''),
		('dead_letter_queue', 'repeat(''q'', 64)'), ('batch_size', '0'), ('batch_size', '1001')) v(c, v);
SELECT throws_ok(format($$INSERT INTO jobqueue.tasks_history_%s (type, status, slot) VALUES ('t', %L, %s)$$, n, s, n),
	'23514', NULL, format('%s is no history (leaf %s)', s, n))
FROM generate_series(1, 8) n, unnest('{pending,processing,failed}'::text[]) s;
SELECT throws_ok($$INSERT INTO jobqueue.tasks_failed (type, status, slot) VALUES ('t', 'completed', -1)$$, '23514',
	NULL, 'tasks_failed has failed ones only');
SELECT throws_ok($$INSERT INTO jobqueue.tasks (type, slot) VALUES ('t', 9)$$, '23514', NULL,
	'there is no ninth history leaf');
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE conrelid IN (SELECT oid FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace) AND contype = 'f'$$, 'no foreign keys');
-- the planner knows that the history has nothing that waits
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	whole text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN ' || query LOOP whole := whole || line || E'\n'; END LOOP;
	RETURN whole;
END $$;
SELECT unalike(pg_temp.plan($$SELECT * FROM jobqueue.tasks WHERE status = 'pending'$$), '%tasks_history%',
	'a search for pending tasks skips the history');
SELECT unalike(pg_temp.plan($$SELECT * FROM jobqueue.tasks WHERE status = 'pending' ORDER BY created_at LIMIT 1 FOR
	UPDATE SKIP LOCKED$$), '%tasks_failed%', '... and the failed');

-- triggers
SELECT is((SELECT array_agg(tgrelid::regclass || ' ' || tgname ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger
	WHERE NOT tgisinternal
	AND tgrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace)),
	ARRAY['jobqueue.access access_changed', 'jobqueue.handlers handlers_changed',
		'jobqueue.incarnation incarnation_changed', 'jobqueue.limits limits_changed', 'jobqueue.queues queues_changed',
			'jobqueue.schedules schedules_changed', 'jobqueue.tasks tasks_inserted',
				'jobqueue.tasks_live task_updated'],
	'the triggers');
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace)
	AND NOT tgisinternal AND tgtype & 1 = 1 AND tgtype & 4 = 4$$,
	'no row trigger on insert: COPY would be half as fast');
SELECT is_empty($$SELECT tgname FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM pg_class
	WHERE relnamespace = 'jobqueue'::regnamespace)
	AND NOT tgisinternal AND tgenabled <> 'A'$$, 'all enabled, whatever session_replication_role is');

-- functions: name, arguments with their defaults, result
SELECT results_eq(
	$$SELECT proname::text COLLATE "default", pg_get_function_arguments(oid), pg_get_function_result(oid) FROM pg_proc
	  WHERE pronamespace = 'jobqueue'::regnamespace AND proname !~ '^_' ORDER BY proname COLLATE "C", pronargs$$,
	$$VALUES ('adopt', '', 'boolean'),
		('alter_handler',
			'type text, handler regprocedure DEFAULT NULL::regprocedure, queue text DEFAULT NULL::text, run_as name '
			'DEFAULT NULL::name, max_attempts integer DEFAULT NULL::integer, backoff text DEFAULT NULL::text, '
			'backoff_function regprocedure DEFAULT NULL::regprocedure, first_delay interval DEFAULT NULL::interval, '
			'max_delay interval DEFAULT NULL::interval, jitter real DEFAULT NULL::real, timeout interval DEFAULT '
			'NULL::interval, discard_sqlstates text[] DEFAULT NULL::text[], dead_letter_queue text DEFAULT '
			'NULL::text, max_running integer DEFAULT NULL::integer, batch_size integer DEFAULT NULL::integer, '
			'rate_limit integer DEFAULT NULL::integer, rate_period interval DEFAULT NULL::interval, rate_burst '
			'integer DEFAULT NULL::integer, group_limit integer DEFAULT NULL::integer, on_failure text DEFAULT '
			'NULL::text', 'void'),
		('alter_queue',
			'queue text, max_running integer DEFAULT NULL::integer, weight integer DEFAULT NULL::integer, rate_limit '
			'integer DEFAULT NULL::integer, rate_period interval DEFAULT NULL::interval, rate_burst integer DEFAULT '
			'NULL::integer, group_limit integer DEFAULT NULL::integer, group_hold_on_retry boolean DEFAULT '
			'NULL::boolean, group_rate_limit integer DEFAULT NULL::integer, group_rate_period interval DEFAULT '
			'NULL::interval, group_rate_burst integer DEFAULT NULL::integer, aging interval DEFAULT NULL::interval',
				'void'),
		('cancel', 'id bigint, reason text DEFAULT NULL::text', 'boolean'),
		('cancel_tasks',
			'queue text DEFAULT NULL::text, type text DEFAULT NULL::text, status text DEFAULT NULL::text, since '
			'timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT '
			'NULL::timestamp with time zone, max_tasks integer DEFAULT 1000', 'bigint'),
		('claim',
			'queue text DEFAULT ''default''::text, max_tasks integer DEFAULT 1, lease interval DEFAULT '
			'''00:05:00''::interval, types text[] DEFAULT NULL::text[], claimed_by text DEFAULT NULL::text',
				'SETOF jobqueue.tasks'),
		('claim_json',
			'queue text DEFAULT ''default''::text, max_tasks integer DEFAULT 1, lease interval DEFAULT '
			'''00:05:00''::interval, types text[] DEFAULT NULL::text[], claimed_by text DEFAULT NULL::text',
				'SETOF jsonb'),
		('complete', 'id bigint, attempt integer, result jsonb DEFAULT NULL::jsonb', 'boolean'),
		('complete_and_claim',
			'ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL::jsonb[], queue text DEFAULT '
			'''default''::text, max_tasks integer DEFAULT 1, lease interval DEFAULT ''00:05:00''::interval, types '
			'text[] DEFAULT NULL::text[], claimed_by text DEFAULT NULL::text', 'SETOF jobqueue.tasks'),
		('complete_and_claim_json',
			'ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL::jsonb[], queue text DEFAULT '
			'''default''::text, max_tasks integer DEFAULT 1, lease interval DEFAULT ''00:05:00''::interval, types '
			'text[] DEFAULT NULL::text[], claimed_by text DEFAULT NULL::text', 'SETOF jsonb'),
		('complete_many', 'ids bigint[], attempts integer[], results jsonb[] DEFAULT NULL::jsonb[]', 'SETOF bigint'),
		('current_task', '', 'jobqueue.tasks'),
		('delete_tasks',
			'queue text DEFAULT NULL::text, type text DEFAULT NULL::text, status text DEFAULT NULL::text, since '
			'timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT '
			'NULL::timestamp with time zone, max_tasks integer DEFAULT 1000', 'bigint'),
		('discard', 'reason text', 'void'),
		('discard', 'id bigint, attempt integer, reason text', 'boolean'),
		('drain',
			'queue text DEFAULT NULL::text, max_tasks integer DEFAULT NULL::integer, include_scheduled boolean '
			'DEFAULT false, raise_errors boolean DEFAULT false', 'SETOF jobqueue.tasks'),
		('enqueue',
			'type text, payload jsonb DEFAULT ''{}''::jsonb, queue text DEFAULT NULL::text, priority integer DEFAULT '
			'0, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT '
			'NULL::interval, max_attempts integer DEFAULT NULL::integer, timeout interval DEFAULT NULL::interval, '
			'unique_key text DEFAULT NULL::text, on_conflict text DEFAULT ''keep''::text, group_key text DEFAULT '
			'NULL::text, after bigint[] DEFAULT NULL::bigint[], on_parent_failure text DEFAULT ''cancel''::text, '
			'metadata jsonb DEFAULT NULL::jsonb, unique_scope text DEFAULT ''live''::text', 'bigint'),
		('enqueue_flow', 'flow jsonb', 'TABLE(name text, id bigint)'),
		('enqueue_many',
			'type text, payloads jsonb[], queue text DEFAULT NULL::text, priority integer DEFAULT 0, run_at '
			'timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT NULL::interval, '
			'max_attempts integer DEFAULT NULL::integer, timeout interval DEFAULT NULL::interval, group_key text '
			'DEFAULT NULL::text, after bigint[] DEFAULT NULL::bigint[], on_parent_failure text DEFAULT '
			'''cancel''::text, metadata jsonb DEFAULT NULL::jsonb', 'SETOF bigint'),
		('enqueue_row', '', 'trigger'),
		('enqueue_sql',
			'command text, queue text DEFAULT ''default''::text, timeout interval DEFAULT NULL::interval, run_at '
			'timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint'),
		('enqueue_unique',
			'type text, payload jsonb DEFAULT ''{}''::jsonb, queue text DEFAULT NULL::text, priority integer DEFAULT '
			'0, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT '
			'NULL::interval, max_attempts integer DEFAULT NULL::integer, timeout interval DEFAULT NULL::interval, '
			'unique_key text DEFAULT NULL::text, on_conflict text DEFAULT ''keep''::text, group_key text DEFAULT '
			'NULL::text, after bigint[] DEFAULT NULL::bigint[], on_parent_failure text DEFAULT ''cancel''::text, '
			'metadata jsonb DEFAULT NULL::jsonb, unique_scope text DEFAULT ''live''::text, unique_for interval '
			'DEFAULT NULL::interval, OUT id bigint, OUT is_new boolean', 'record'),
		('extend_lease', 'id bigint, attempt integer, lease interval DEFAULT ''00:05:00''::interval', 'boolean'),
		('fail', 'id bigint, attempt integer, error text, sqlstate text DEFAULT NULL::text, retry_in interval '
			'DEFAULT NULL::interval, retryable boolean DEFAULT true', 'text'),
		('grant_access', 'role name, access text, queue text DEFAULT NULL::text', 'void'),
		('limit_role',
			'role name, max_workers integer DEFAULT NULL::integer, max_queued integer DEFAULT NULL::integer, '
			'max_payload integer DEFAULT NULL::integer, max_schedules integer DEFAULT NULL::integer', 'void'),
		('next_runs',
			'cron text, n integer DEFAULT 5, time_zone text DEFAULT ''UTC''::text, after timestamp with time zone '
			'DEFAULT now()', 'SETOF timestamp with time zone'),
		('parent_results', '', 'TABLE(parent_id bigint, name text, status text, result jsonb)'),
		('parent_results', 'id bigint, attempt integer',
			'TABLE(parent_id bigint, name text, status text, result jsonb)'),
		('pause_queue', 'queue text', 'boolean'),
		('pause_schedule', 'name text', 'boolean'),
		('purge_queue', 'queue text', 'bigint'),
		('register_handler',
			'type text, handler regprocedure, queue text DEFAULT ''default''::text, run_as name DEFAULT '
			'CURRENT_USER, max_attempts integer DEFAULT 20, backoff text DEFAULT ''exponential''::text, '
			'backoff_function regprocedure DEFAULT NULL::regprocedure, first_delay interval DEFAULT '
			'''00:00:05''::interval, max_delay interval DEFAULT ''01:00:00''::interval, jitter real DEFAULT 0.2, '
			'timeout interval DEFAULT NULL::interval, discard_sqlstates text[] DEFAULT NULL::text[], '
			'dead_letter_queue text DEFAULT NULL::text, max_running integer DEFAULT NULL::integer, batch_size '
			'integer DEFAULT 1, rate_limit integer DEFAULT NULL::integer, rate_period interval DEFAULT '
			'NULL::interval, rate_burst integer DEFAULT NULL::integer, group_limit integer DEFAULT NULL::integer, '
			'on_failure text DEFAULT NULL::text', 'void'),
		('release', 'id bigint, attempt integer', 'boolean'),
		('resume_queue', 'queue text', 'boolean'),
		('resume_schedule', 'name text', 'boolean'),
		('retry', 'id bigint, run_at timestamp with time zone DEFAULT now()', 'boolean'),
		('retry_failed',
			'queue text DEFAULT NULL::text, type text DEFAULT NULL::text, since timestamp with time zone DEFAULT '
			'NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, '
			'max_tasks integer DEFAULT 1000', 'bigint'),
		('revoke_access', 'role name, access text, queue text DEFAULT NULL::text', 'void'),
		('schedule',
			'name text, cron text, type text, payload jsonb DEFAULT ''{}''::jsonb, time_zone text DEFAULT '
			'''UTC''::text, queue text DEFAULT NULL::text, priority integer DEFAULT 0, on_misfire text DEFAULT '
			'''once''::text, misfire_limit integer DEFAULT 10, on_overlap text DEFAULT ''allow''::text', 'void'),
		('schedule_sql',
			'name text, cron text, command text, time_zone text DEFAULT ''UTC''::text, queue text DEFAULT '
			'''default''::text, timeout interval DEFAULT NULL::interval, on_misfire text DEFAULT ''once''::text, '
			'misfire_limit integer DEFAULT 10, on_overlap text DEFAULT ''skip''::text, run_as name DEFAULT '
			'CURRENT_USER', 'void'),
		('set_progress', 'fraction real, message text DEFAULT NULL::text', 'void'),
		('set_progress', 'id bigint, attempt integer, fraction real, message text DEFAULT NULL::text', 'boolean'),
		('snooze', 'delay interval', 'void'),
		('snooze', 'id bigint, attempt integer, delay interval', 'boolean'),
		('unregister_handler', 'type text', 'boolean'),
		('unschedule', 'name text', 'boolean'),
		('version', '', 'text'),
		('wait_for', 'id bigint, timeout interval DEFAULT NULL::interval', 'jobqueue.tasks')$$,
	'the functions');
SELECT is(jobqueue.version(), (SELECT extversion FROM pg_extension WHERE extname = 'jobqueue'),
	'the library is of the extension''s version');
SELECT is((SELECT provolatile FROM pg_proc WHERE oid = 'jobqueue.current_task()'::regprocedure), 's'::"char",
	'current_task is stable');
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
	AND proparallel = 's' AND proname <> 'version' AND provolatile = 'v'$$,
	'nothing that writes is parallel safe');

-- views
SELECT columns_are('jobqueue', 'queue_status',
	'{queue,waiting,scheduled,running,oldest_waiting,paused,unhandled_types}'::name[]);
SELECT columns_are('jobqueue', 'worker_status',
	'{pid,role,state,task_id,task_type,queue,attempt,started_at,state_since,progress,progress_message}'::name[]);
SELECT columns_are('jobqueue', 'running_tasks',
	'{id,type,queue,attempt,processed_at,claimed_by,lease_expires_at,pid,progress,progress_message}'::name[]);

SELECT columns_are('jobqueue', 'history_status', '{leaf,filling,filled_since,bytes,held_by}'::name[]);
SELECT columns_are('jobqueue', 'shared_capacity',
	'{resource,database,role,queue,held,share,capacity,when_full}'::name[]);
SELECT columns_are('jobqueue', 'access_status', '{role,access,queue,source}'::name[]);
SELECT columns_are('jobqueue', 'access', '{role,role_oid,access,queue,granted_by,granted_at}'::name[]);
SELECT columns_are('jobqueue', 'limits', '{role,max_workers,max_queued,max_payload,max_schedules}'::name[]);

-- comments: everything that somebody may look up says what it is
SELECT isnt(obj_description('jobqueue'::regnamespace, 'pg_namespace'), NULL, 'the schema has a comment');
SELECT isnt(obj_description(oid, 'pg_extension'), NULL, 'the extension has a comment') FROM pg_extension
	WHERE extname = 'jobqueue';
SELECT is_empty($$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'jobqueue'::regnamespace
	AND coalesce(obj_description(oid, 'pg_proc'), '') = ''$$, 'every function has a comment');
SELECT is_empty($$SELECT oid::regclass FROM pg_class WHERE relnamespace = 'jobqueue'::regnamespace AND relkind
	IN ('r', 'p', 'v') AND NOT relispartition
	AND coalesce(obj_description(oid, 'pg_class'), '') = ''$$, 'every table and view has a comment');
SELECT is_empty($$SELECT oid::regclass || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = oid
	AND attnum > 0 AND NOT attisdropped
	WHERE relnamespace = 'jobqueue'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
	AND coalesce(col_description(oid, attnum), '') = ''$$, 'every column has a comment');

-- settings: a sensible default, a unit, a description, not for everybody
SELECT results_eq(
	$$SELECT name COLLATE "default", boot_val, coalesce(unit, ''), vartype,
		context FROM pg_settings WHERE name LIKE 'jobqueue.%'
	  AND name IN ('jobqueue.max_workers', 'jobqueue.poll_interval', 'jobqueue.worker_idle_timeout',
	  'jobqueue.notify_mode', 'jobqueue.completed_retention',
		'jobqueue.failed_retention', 'jobqueue.allow_superuser_handlers', 'jobqueue.max_crashes',
			'jobqueue.timeout_grace', 'jobqueue.kill_stuck',
		'jobqueue.worker_synchronous_commit') ORDER BY name COLLATE "C"$$,
	$$VALUES ('jobqueue.allow_superuser_handlers', 'on', '', 'bool', 'sighup'),
		('jobqueue.completed_retention', '604800', 's', 'integer', 'sighup'),
		('jobqueue.failed_retention', '-1', 's', 'integer', 'sighup'),
		('jobqueue.kill_stuck', 'off', '', 'bool', 'sighup'),
		('jobqueue.max_crashes', '3', '', 'integer', 'sighup'),
		('jobqueue.max_workers', '4', '', 'integer', 'sighup'),
		('jobqueue.notify_mode', 'coalesced', '', 'enum', 'sighup'),
		('jobqueue.poll_interval', '5000', 'ms', 'integer', 'sighup'),
		('jobqueue.timeout_grace', '3000', 'ms', 'integer', 'sighup'),
		('jobqueue.worker_idle_timeout', '60', 's', 'integer', 'sighup'),
		('jobqueue.worker_synchronous_commit', 'off', '', 'bool', 'sighup')$$,
	'the settings');
SELECT results_eq($$SELECT name FROM pg_settings WHERE name LIKE 'jobqueue.%' AND context = 'postmaster'$$,
	ARRAY['jobqueue.max_databases'],
	'none but what shapes shared memory needs a restart');
SELECT is((SELECT enumvals FROM pg_settings WHERE name = 'jobqueue.notify_mode'), '{coalesced,immediate,off}'::text[],
	'the values of notify_mode');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'jobqueue.%' AND coalesce(short_desc, '') = ''$$,
	'every setting has a description');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'jobqueue.%' AND short_desc !~ '^[A-Z].*\.$'$$,
	'... a sentence');
SELECT is_empty($$SELECT name FROM pg_settings WHERE name LIKE 'jobqueue.%' AND context = 'user'$$,
	'no setting is everybody''s');
SELECT cmp_ok((SELECT boot_val::int FROM pg_settings WHERE name = 'jobqueue.max_workers') + 2, '<', 8,
	'the default leaves worker processes of the server''s own 8 to others');
SELECT throws_ok('SET jobqueue.no_such_setting = 1', '42602', NULL, 'the prefix is reserved');

SELECT * FROM finish();
ROLLBACK;
