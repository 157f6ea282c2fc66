-- The tasks table: one table to look at, ten leaves underneath.

-- Its checks are compiled in every statement that writes a row, and as expressions cost more than the rest of the statement:
-- one function of ours looks at all columns. What each may have is in src/engine/bounds.hpp. Everybody may call it, since
-- everybody who may write a row has to.
CREATE FUNCTION jobqueue._check_task(type text, status text, queue text, slot smallint, attempts integer, max_attempts integer,
	timeout interval, claimed_by text, last_error text, last_sqlstate text, unique_key text, unique_scope text, group_key text,
	metadata jsonb, failures jsonb, origin_queue text, progress_message text)
	RETURNS boolean LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'jobqueue_check_task';
COMMENT ON FUNCTION jobqueue._check_task(text, text, text, smallint, integer, integer, interval, text, text, text, text, text,
	text, jsonb, jsonb, text, text) IS 'internal: the check of jobqueue.tasks; true, or an error that says what is wrong';

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
	-- its name comes before those of the leaves' own checks, and so it says what is wrong
	CONSTRAINT tasks_bounds CHECK (jobqueue._check_task(type, status, queue, slot, attempts, max_attempts, timeout, claimed_by,
		last_error, last_sqlstate, unique_key, unique_scope, group_key, metadata, failures, origin_queue, progress_message))
) PARTITION BY LIST (slot);

CREATE TABLE jobqueue.tasks_live PARTITION OF jobqueue.tasks FOR VALUES IN (0);
CREATE TABLE jobqueue.tasks_failed PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_failed_status CHECK (status OPERATOR(pg_catalog.=) 'failed')) FOR VALUES IN (-1);

-- The ring of history: the leaf being filled changes with time, the oldest is emptied by TRUNCATE.
CREATE TABLE jobqueue.tasks_history_1 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (1);
CREATE TABLE jobqueue.tasks_history_2 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (2);
CREATE TABLE jobqueue.tasks_history_3 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (3);
CREATE TABLE jobqueue.tasks_history_4 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (4);
CREATE TABLE jobqueue.tasks_history_5 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (5);
CREATE TABLE jobqueue.tasks_history_6 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (6);
CREATE TABLE jobqueue.tasks_history_7 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (7);
CREATE TABLE jobqueue.tasks_history_8 PARTITION OF jobqueue.tasks
	(CONSTRAINT tasks_history_status CHECK (status OPERATOR(pg_catalog.=) ANY ('{completed,cancelled}'::pg_catalog.text[]))) FOR VALUES IN (8);

-- Indexes belong to the leaves: an index on the parent is created again by a restore, and fails.
ALTER TABLE jobqueue.tasks_live ADD CONSTRAINT tasks_live_pkey PRIMARY KEY (id);
-- NULLS FIRST, as the claims ask for: the primary key cannot serve that order, however cheap the planner thinks it is.
CREATE INDEX tasks_live_next ON jobqueue.tasks_live (queue COLLATE pg_catalog."C", priority, id NULLS FIRST)
	WHERE status OPERATOR(pg_catalog.=) 'pending' AND group_key IS NULL;
-- Likewise tasks that belong to a group: the first of each is found by stepping from one group to the next. One that waits
-- for its next attempt is there, too: it may keep the group waiting.
CREATE INDEX tasks_live_group ON jobqueue.tasks_live
	(queue COLLATE pg_catalog."C", priority, group_key COLLATE pg_catalog."C", id NULLS FIRST)
	WHERE group_key IS NOT NULL AND (status OPERATOR(pg_catalog.=) 'pending'
		OR status OPERATOR(pg_catalog.=) 'scheduled' AND attempts OPERATOR(pg_catalog.>) 0);
CREATE INDEX tasks_live_due ON jobqueue.tasks_live (run_at, id) WHERE status OPERATOR(pg_catalog.=) 'scheduled';
-- Claims by hand have no lease and sort last: they are counted here, and never expire.
CREATE INDEX tasks_live_lease ON jobqueue.tasks_live (lease_expires_at) WHERE status OPERATOR(pg_catalog.=) 'processing';
-- Rows finished by a hand-written UPDATE, which the scheduler moves to their leaf: empty but for them.
CREATE INDEX tasks_live_finished ON jobqueue.tasks_live (updated_at)
	WHERE status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled']);
CREATE UNIQUE INDEX tasks_live_unique_key ON jobqueue.tasks_live (type, unique_key)
	WHERE unique_key IS NOT NULL AND coalesce(unique_scope, 'live') OPERATOR(pg_catalog.=) ANY (ARRAY['live', 'waiting'])
		AND NOT status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled']);
ALTER TABLE jobqueue.tasks_failed ADD CONSTRAINT tasks_failed_pkey PRIMARY KEY (id);
-- The ones that have been kept long enough.
CREATE INDEX tasks_failed_finished ON jobqueue.tasks_failed (finished_at);
ALTER TABLE jobqueue.tasks_history_1 ADD CONSTRAINT tasks_history_1_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_2 ADD CONSTRAINT tasks_history_2_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_3 ADD CONSTRAINT tasks_history_3_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_4 ADD CONSTRAINT tasks_history_4_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_5 ADD CONSTRAINT tasks_history_5_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_6 ADD CONSTRAINT tasks_history_6_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_7 ADD CONSTRAINT tasks_history_7_pkey PRIMARY KEY (id);
ALTER TABLE jobqueue.tasks_history_8 ADD CONSTRAINT tasks_history_8_pkey PRIMARY KEY (id);

-- The live leaf turns over completely all the time: vacuum early, and leave room for HOT-less updates in place.
ALTER TABLE jobqueue.tasks_live SET (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
	autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);

ALTER SEQUENCE jobqueue.tasks_id_seq OWNED BY jobqueue.tasks.id;

COMMENT ON TABLE jobqueue.tasks IS 'every task, whatever its status; one row is one piece of work';
COMMENT ON COLUMN jobqueue.tasks.id IS 'the task''s number';
COMMENT ON COLUMN jobqueue.tasks.type IS 'what kind of work; the handler is found by it';
COMMENT ON COLUMN jobqueue.tasks.payload IS 'the handler''s argument';
COMMENT ON COLUMN jobqueue.tasks.status IS 'pending, scheduled, blocked, processing, completed, failed or cancelled';
COMMENT ON COLUMN jobqueue.tasks.created_at IS 'when it was enqueued';
COMMENT ON COLUMN jobqueue.tasks.updated_at IS 'when it last changed';
COMMENT ON COLUMN jobqueue.tasks.processed_at IS 'when the latest attempt began';
COMMENT ON COLUMN jobqueue.tasks.queue IS 'the lane it waits in, 1 to 63 bytes';
COMMENT ON COLUMN jobqueue.tasks.priority IS 'lower runs sooner; first in, first out within one priority';
COMMENT ON COLUMN jobqueue.tasks.run_at IS 'not before this time; null = at once';
COMMENT ON COLUMN jobqueue.tasks.attempts IS 'claims so far; with id it names one claim for ever';
COMMENT ON COLUMN jobqueue.tasks.max_attempts IS 'failed when attempts reaches it; null = the handler''s, or 20';
COMMENT ON COLUMN jobqueue.tasks.finished_at IS 'when it was completed, failed or cancelled';
COMMENT ON COLUMN jobqueue.tasks.lease_expires_at IS 'end of an outside claim; infinity while a worker in the server runs it';
COMMENT ON COLUMN jobqueue.tasks.claimed_by IS 'who claimed it last';
COMMENT ON COLUMN jobqueue.tasks.last_error IS 'message of the latest failed attempt';
COMMENT ON COLUMN jobqueue.tasks.last_sqlstate IS 'SQLSTATE of the latest failed attempt';
COMMENT ON COLUMN jobqueue.tasks.result IS 'what the handler returned, or complete() was given';
COMMENT ON COLUMN jobqueue.tasks.unique_key IS 'at most one task of a type has it, as long as unique_scope says';
COMMENT ON COLUMN jobqueue.tasks.group_key IS 'tasks of a queue with the same key are run in order, so many at a time as group_limit says';
COMMENT ON COLUMN jobqueue.tasks.created_by IS 'the role that enqueued it';
COMMENT ON COLUMN jobqueue.tasks.metadata IS 'yours: passed through untouched';
COMMENT ON COLUMN jobqueue.tasks.timeout IS 'how long an attempt in the server may take; null = as the handler says';
COMMENT ON COLUMN jobqueue.tasks.crashes IS 'attempts that took their worker or the server down';
COMMENT ON COLUMN jobqueue.tasks.failures IS 'its failed attempts, the latest 20: attempt, started_at, seconds, sqlstate, message, context, worker ...';
COMMENT ON COLUMN jobqueue.tasks.origin_queue IS 'of a dead letter: the queue it failed in; such a task waits for claim() or retry()';
COMMENT ON COLUMN jobqueue.tasks.progress IS 'as the outside worker reported it, 0 to 1; see running_tasks for handlers';
COMMENT ON COLUMN jobqueue.tasks.progress_message IS 'likewise';
COMMENT ON COLUMN jobqueue.tasks.unique_scope IS 'how long it holds its unique_key: live = until it is finished (also null), waiting = until it starts, started = no more, period = for the time in unique_keys';
COMMENT ON COLUMN jobqueue.tasks.slot IS 'the leaf: 0 live, -1 failed, 1 to 8 history; written by the engine only';
