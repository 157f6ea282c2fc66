-- The tasks table: one partitioned table with ten leaves.

-- The server compiles check constraints in every statement that writes a row, and as expressions they would cost more
-- than the rest of the statement. Therefore one C function checks all columns; the limits are in
-- src/engine/store/bounds.hpp.
-- PUBLIC may call it, because every role that writes a row has to.
CREATE FUNCTION jobqueue._check_task(type text, status text, queue text, slot smallint, attempts integer,
	max_attempts integer, timeout interval, claimed_by text, last_error text, last_sqlstate text, unique_key text,
	unique_scope text, group_key text, metadata jsonb, failures jsonb, origin_queue text, progress_message text)
	RETURNS boolean LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_check_task';
COMMENT ON FUNCTION jobqueue._check_task(text, text, text, smallint, integer, integer, interval, text, text, text,
	text, text, text, jsonb, jsonb, text, text) IS
	'internal: checks a row of jobqueue.tasks; returns true, or raises an error that says what is wrong';

CREATE SEQUENCE jobqueue.tasks_id_seq AS bigint;

CREATE TABLE jobqueue.tasks (
	id               bigint      NOT NULL DEFAULT pg_catalog.nextval('jobqueue.tasks_id_seq'::pg_catalog.regclass),
	type             text        NOT NULL,
	payload          jsonb       NOT NULL DEFAULT '{}',
	status           text        NOT NULL DEFAULT 'pending',
	created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
	processed_at     timestamptz,
	queue            text        NOT NULL DEFAULT 'default',
	priority         smallint    NOT NULL DEFAULT 0,
	run_at           timestamptz,
	attempts         integer     NOT NULL DEFAULT 0,
	max_attempts     integer,
	finished_at      timestamptz,
	lease_expires_at timestamptz,
	claimed_by       text,
	last_error       text,
	last_sqlstate    text,
	result           jsonb,
	unique_key       text,
	group_key        text,
	created_by       name        NOT NULL DEFAULT CURRENT_USER,
	metadata         jsonb,
	timeout          interval,
	crashes          integer     NOT NULL DEFAULT 0,
	failures         jsonb,
	origin_queue     text,
	progress         real,
	progress_message text,
	unique_scope     text,
	slot             smallint    NOT NULL DEFAULT 0,
	-- constraints are checked in the order of their names: this one comes before the leaves' own, and its error says
	-- more
	CONSTRAINT tasks_bounds CHECK (jobqueue._check_task(type, status, queue, slot, attempts, max_attempts, timeout,
		claimed_by, last_error, last_sqlstate, unique_key, unique_scope, group_key, metadata, failures, origin_queue,
		progress_message))
) PARTITION BY LIST (slot);

CREATE TABLE jobqueue.tasks_live PARTITION OF jobqueue.tasks FOR VALUES IN (0);
CREATE TABLE jobqueue.tasks_failed PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_failed_status CHECK (status OPERATOR(pg_catalog.=) 'failed')) FOR VALUES IN (-1);

-- The history ring: finished tasks go to one leaf for some time, then to the next; the oldest is emptied by TRUNCATE.
CREATE TABLE jobqueue.tasks_history_1 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (1);
CREATE TABLE jobqueue.tasks_history_2 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (2);
CREATE TABLE jobqueue.tasks_history_3 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (3);
CREATE TABLE jobqueue.tasks_history_4 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (4);
CREATE TABLE jobqueue.tasks_history_5 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (5);
CREATE TABLE jobqueue.tasks_history_6 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (6);
CREATE TABLE jobqueue.tasks_history_7 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (7);
CREATE TABLE jobqueue.tasks_history_8 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (
		status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (8);

-- Indexes belong to the leaves: an index on the parent is created again by a restore, and fails.
ALTER TABLE jobqueue.tasks_live ADD CONSTRAINT tasks_live_pkey PRIMARY KEY (id);
-- NULLS FIRST, as in the ORDER BY of claims: so the planner cannot choose the primary key, which does not have that
-- order.
CREATE INDEX tasks_live_next ON jobqueue.tasks_live (queue COLLATE pg_catalog."C", priority, id NULLS FIRST)
	WHERE status OPERATOR(pg_catalog.=) 'pending' AND group_key IS NULL;
-- The same for tasks with a group_key: the first task of each group is found by stepping from one group to the next.
-- The index also has tasks that wait for a retry, because they can make the group wait.
CREATE INDEX tasks_live_group ON jobqueue.tasks_live
	(queue COLLATE pg_catalog."C", priority, group_key COLLATE pg_catalog."C", id NULLS FIRST)
	WHERE group_key IS NOT NULL AND (status OPERATOR(pg_catalog.=) 'pending'
		OR status OPERATOR(pg_catalog.=) 'scheduled' AND attempts OPERATOR(pg_catalog.>) 0);
CREATE INDEX tasks_live_due ON jobqueue.tasks_live (run_at, id) WHERE status OPERATOR(pg_catalog.=) 'scheduled';
-- Claims by hand have no lease: they are in the index, sort last, and never expire.
CREATE INDEX tasks_live_lease ON jobqueue.tasks_live (lease_expires_at, id)
	WHERE status OPERATOR(pg_catalog.=) 'processing';
-- Rows that were finished by a hand-written UPDATE, until the scheduler moves them to their leaf. Usually empty.
CREATE INDEX tasks_live_finished ON jobqueue.tasks_live (updated_at, id)
	WHERE status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled']);
CREATE UNIQUE INDEX tasks_live_unique_key ON jobqueue.tasks_live (type, unique_key)
	WHERE unique_key IS NOT NULL
		AND coalesce(unique_scope, 'live') OPERATOR(pg_catalog.=) ANY (ARRAY['live', 'waiting'])
		AND NOT status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled']);
ALTER TABLE jobqueue.tasks_failed ADD CONSTRAINT tasks_failed_pkey PRIMARY KEY (id);
-- For the purge of failed tasks after jobqueue.failed_retention.
CREATE INDEX tasks_failed_finished ON jobqueue.tasks_failed (finished_at, id);
ALTER TABLE jobqueue.tasks_history_1 ADD CONSTRAINT tasks_history_1_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_2 ADD CONSTRAINT tasks_history_2_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_3 ADD CONSTRAINT tasks_history_3_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_4 ADD CONSTRAINT tasks_history_4_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_5 ADD CONSTRAINT tasks_history_5_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_6 ADD CONSTRAINT tasks_history_6_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_7 ADD CONSTRAINT tasks_history_7_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_8 ADD CONSTRAINT tasks_history_8_pkey PRIMARY KEY (id);

-- All rows of the live leaf are replaced again and again: vacuum early.
ALTER TABLE jobqueue.tasks_live SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
	autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);

ALTER SEQUENCE jobqueue.tasks_id_seq OWNED BY jobqueue.tasks.id;

COMMENT ON TABLE jobqueue.tasks IS 'every task, whatever its status; one row per task';
COMMENT ON COLUMN jobqueue.tasks.id IS 'the task''s number';
COMMENT ON COLUMN jobqueue.tasks.type IS 'the kind of work; it selects the handler';
COMMENT ON COLUMN jobqueue.tasks.payload IS 'the handler''s argument';
COMMENT ON COLUMN jobqueue.tasks.status IS 'pending, scheduled, blocked, processing, completed, failed or cancelled';
COMMENT ON COLUMN jobqueue.tasks.created_at IS 'when it was enqueued';
COMMENT ON COLUMN jobqueue.tasks.updated_at IS 'when it last changed';
COMMENT ON COLUMN jobqueue.tasks.processed_at IS 'when the latest attempt started';
COMMENT ON COLUMN jobqueue.tasks.queue IS 'the queue it waits in, 1 to 63 bytes';
COMMENT ON COLUMN jobqueue.tasks.priority IS 'lower numbers run sooner; first in, first out within one priority';
COMMENT ON COLUMN jobqueue.tasks.run_at IS 'not before this time; null = at once';
COMMENT ON COLUMN jobqueue.tasks.attempts IS
	'number of claims so far; together with id it identifies one claim permanently';
COMMENT ON COLUMN jobqueue.tasks.max_attempts IS
	'the task is failed when attempts reaches this; null = the handler''s value, or 20';
COMMENT ON COLUMN jobqueue.tasks.finished_at IS 'when it was completed, failed or cancelled';
COMMENT ON COLUMN jobqueue.tasks.lease_expires_at IS
	'when an outside claim expires; infinity while a worker in the server runs it';
COMMENT ON COLUMN jobqueue.tasks.claimed_by IS 'who claimed it last';
COMMENT ON COLUMN jobqueue.tasks.last_error IS 'message of the latest failed attempt, or reason of the cancellation';
COMMENT ON COLUMN jobqueue.tasks.last_sqlstate IS 'SQLSTATE of the latest failed attempt';
COMMENT ON COLUMN jobqueue.tasks.result IS 'what the handler returned, or what was passed to complete()';
COMMENT ON COLUMN jobqueue.tasks.unique_key IS 'at most one task of a type has it, for as long as unique_scope says';
COMMENT ON COLUMN jobqueue.tasks.group_key IS
	'tasks of a queue with the same key run in order, at most group_limit at a time';
COMMENT ON COLUMN jobqueue.tasks.created_by IS 'the role that enqueued it';
COMMENT ON COLUMN jobqueue.tasks.metadata IS 'for the caller''s own use, stored unchanged';
COMMENT ON COLUMN jobqueue.tasks.timeout IS 'how long an attempt in the server may take; null = the handler''s value';
COMMENT ON COLUMN jobqueue.tasks.crashes IS 'attempts that crashed their worker or the server';
COMMENT ON COLUMN jobqueue.tasks.failures IS
	'its failed attempts, the latest 20: attempt, started_at, seconds, sqlstate, message, context, worker ...';
COMMENT ON COLUMN jobqueue.tasks.origin_queue IS
	'of a dead letter: the queue in which it failed; such a task waits for claim() or retry()';
COMMENT ON COLUMN jobqueue.tasks.progress IS 'as an outside worker reported it, 0 to 1; for handlers see running_tasks';
COMMENT ON COLUMN jobqueue.tasks.progress_message IS 'the message of that report';
COMMENT ON COLUMN jobqueue.tasks.unique_scope IS
	'how long it holds its unique_key: live = until it is finished (also null), waiting = until it starts, '
	'started = no longer held, period = for the time in unique_keys';
COMMENT ON COLUMN jobqueue.tasks.slot IS
	'the partition: 0 live, -1 failed, 1 to 8 history; only the extension writes it';
