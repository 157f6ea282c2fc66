-- Small tables: handlers, settings of queues, access, and the identity of this installation.

-- One row identifies this installation. A restored or copied database has a row of another installation, and stays
-- paused until adopt(). Handlers store the installation in which they were registered, so that nothing runs while a
-- restore is incomplete. If the database is known to be a copy in another way (see store::standing()), the column
-- database is set to 0.
CREATE TABLE jobqueue.incarnation (
	id         uuid        NOT NULL CONSTRAINT incarnation_pkey PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
	database   oid         NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	paused_at  timestamptz,
	system_identifier     bigint,
	server_version        integer,
	server_started_at     timestamptz,
	adopted_subscriptions oid[] NOT NULL DEFAULT '{}'
);
INSERT INTO jobqueue.incarnation (database, system_identifier, server_version)
	SELECT d.oid, s.system_identifier,
		pg_catalog.current_setting('server_version_num')::integer OPERATOR(pg_catalog./) 10000
	FROM pg_catalog.pg_database d, pg_catalog.pg_control_system() s
	WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();

CREATE TABLE jobqueue.handlers (
	type         text        NOT NULL CONSTRAINT handlers_pkey PRIMARY KEY
		CONSTRAINT handlers_type_not_empty CHECK (type OPERATOR(pg_catalog.<>) '')
		CONSTRAINT handlers_type_length CHECK (pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255),
	handler      text        NOT NULL CONSTRAINT handlers_handler_length CHECK (
		pg_catalog.octet_length(handler) OPERATOR(pg_catalog.<=) 1024),
	queue        text        NOT NULL DEFAULT 'default' CONSTRAINT handlers_queue_length CHECK (
		pg_catalog.octet_length(queue) OPERATOR(pg_catalog.>=) 1
		AND pg_catalog.octet_length(queue) OPERATOR(pg_catalog.<=) 63),
	run_as       name        NOT NULL,
	run_as_oid   oid         NOT NULL DEFAULT 0,
	function_owner oid       NOT NULL DEFAULT 0,
	backoff_owner oid        NOT NULL DEFAULT 0,
	max_attempts integer     NOT NULL DEFAULT 20 CONSTRAINT handlers_max_attempts_positive CHECK (
		max_attempts OPERATOR(pg_catalog.>) 0),
	backoff      text        NOT NULL DEFAULT 'exponential' CONSTRAINT handlers_backoff_known CHECK (
		backoff OPERATOR(pg_catalog.=) ANY (ARRAY['fixed', 'linear', 'exponential'])),
	backoff_function text CONSTRAINT handlers_backoff_function_length CHECK (
		pg_catalog.octet_length(backoff_function) OPERATOR(pg_catalog.<=) 1024),
	first_delay  interval    NOT NULL DEFAULT '5 seconds',
	max_delay    interval    NOT NULL DEFAULT '1 hour',
	jitter       real        NOT NULL DEFAULT 0.2 CONSTRAINT handlers_jitter_range CHECK (
		jitter OPERATOR(pg_catalog.>=) 0::real AND jitter OPERATOR(pg_catalog.<=) 1::real),
	timeout      interval    CONSTRAINT handlers_timeout_positive CHECK (timeout OPERATOR(pg_catalog.>) '0'::interval),
	discard_sqlstates text[] CONSTRAINT handlers_discard_sqlstates_length CHECK (
		pg_catalog.pg_column_size(discard_sqlstates) OPERATOR(pg_catalog.<=) 16384),
	dead_letter_queue text CONSTRAINT handlers_dead_letter_queue_length CHECK (
		pg_catalog.octet_length(dead_letter_queue) OPERATOR(pg_catalog.>=) 1
		AND pg_catalog.octet_length(dead_letter_queue) OPERATOR(pg_catalog.<=) 63),
	max_running  integer     CONSTRAINT handlers_max_running_positive CHECK (max_running OPERATOR(pg_catalog.>) 0),
	batch_size   integer     NOT NULL DEFAULT 1 CONSTRAINT handlers_batch_size_range CHECK (
		batch_size OPERATOR(pg_catalog.>) 0 AND batch_size OPERATOR(pg_catalog.<=) 1000),
	rate_limit   integer     CONSTRAINT handlers_rate_limit_positive CHECK (rate_limit OPERATOR(pg_catalog.>) 0),
	rate_period  interval    CONSTRAINT handlers_rate_period_range CHECK (
		rate_period OPERATOR(pg_catalog.>) '0'::interval AND rate_period OPERATOR(pg_catalog.<=) '366 days'::interval),
	rate_burst   integer     CONSTRAINT handlers_rate_burst_positive CHECK (rate_burst OPERATOR(pg_catalog.>) 0),
	group_limit  integer     CONSTRAINT handlers_group_limit_positive CHECK (group_limit OPERATOR(pg_catalog.>) 0),
	rate_changed_at timestamptz,
	governed     boolean     NOT NULL DEFAULT false,
	incarnation  uuid        NOT NULL,
	created_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
	on_failure   text        CONSTRAINT handlers_on_failure_not_empty CHECK (on_failure OPERATOR(pg_catalog.<>) '')
		CONSTRAINT handlers_on_failure_length CHECK (pg_catalog.octet_length(on_failure) OPERATOR(pg_catalog.<=) 255)
);

CREATE TABLE jobqueue.queues (
	queue      text        NOT NULL CONSTRAINT queues_pkey PRIMARY KEY CONSTRAINT queues_queue_length CHECK (
		pg_catalog.octet_length(queue) OPERATOR(pg_catalog.>=) 1
		AND pg_catalog.octet_length(queue) OPERATOR(pg_catalog.<=) 63),
	paused_at  timestamptz,
	max_running integer CONSTRAINT queues_max_running_positive CHECK (max_running OPERATOR(pg_catalog.>) 0),
	weight      integer CONSTRAINT queues_weight_range CHECK (
		weight OPERATOR(pg_catalog.>) 0 AND weight OPERATOR(pg_catalog.<=) 1000),
	rate_limit  integer CONSTRAINT queues_rate_limit_positive CHECK (rate_limit OPERATOR(pg_catalog.>) 0),
	rate_period interval CONSTRAINT queues_rate_period_range CHECK (
		rate_period OPERATOR(pg_catalog.>) '0'::interval AND rate_period OPERATOR(pg_catalog.<=) '366 days'::interval),
	rate_burst  integer CONSTRAINT queues_rate_burst_positive CHECK (rate_burst OPERATOR(pg_catalog.>) 0),
	group_limit integer CONSTRAINT queues_group_limit_positive CHECK (group_limit OPERATOR(pg_catalog.>) 0),
	group_hold_on_retry boolean,
	group_rate_limit  integer CONSTRAINT queues_group_rate_limit_positive CHECK (
		group_rate_limit OPERATOR(pg_catalog.>) 0),
	group_rate_period interval CONSTRAINT queues_group_rate_period_range CHECK (
		group_rate_period OPERATOR(pg_catalog.>) '0'::interval
		AND group_rate_period OPERATOR(pg_catalog.<=) '366 days'::interval),
	group_rate_burst  integer CONSTRAINT queues_group_rate_burst_positive CHECK (
		group_rate_burst OPERATOR(pg_catalog.>) 0),
	aging       interval CONSTRAINT queues_aging_positive CHECK (aging OPERATOR(pg_catalog.>) '0'::interval),
	rate_changed_at timestamptz,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- The queues in which a role may do what its level allows; the rights themselves are GRANTs, see grant_access(). USAGE
-- on the type jobqueue.governed marks the roles to which this applies. The name is stored because a dump keeps it, the
-- OID because another role can take over the name.
CREATE TABLE jobqueue.access (
	role       name        NOT NULL,
	role_oid   oid         NOT NULL,
	access     text        NOT NULL CONSTRAINT access_known CHECK (
		access OPERATOR(pg_catalog.=) ANY (ARRAY['producer', 'consumer', 'manager', 'sql'])),
	queue      text        CONSTRAINT access_queue_length CHECK (
		pg_catalog.octet_length(queue) OPERATOR(pg_catalog.>=) 1
		AND pg_catalog.octet_length(queue) OPERATOR(pg_catalog.<=) 63),
	granted_by name        NOT NULL DEFAULT CURRENT_USER,
	granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CONSTRAINT access_key UNIQUE NULLS NOT DISTINCT (role, access, queue)
);
-- Role limits; null = no limit.
CREATE TABLE jobqueue.limits (
	role        name    NOT NULL CONSTRAINT limits_pkey PRIMARY KEY,
	max_workers integer CONSTRAINT limits_max_workers_positive CHECK (max_workers OPERATOR(pg_catalog.>=) 0),
	max_queued  integer CONSTRAINT limits_max_queued_positive CHECK (max_queued OPERATOR(pg_catalog.>=) 0),
	max_payload integer CONSTRAINT limits_max_payload_positive CHECK (max_payload OPERATOR(pg_catalog.>=) 0),
	max_schedules integer CONSTRAINT limits_max_schedules_positive CHECK (max_schedules OPERATOR(pg_catalog.>=) 0)
);
CREATE DOMAIN jobqueue.governed AS text;
REVOKE ALL ON TYPE jobqueue.governed FROM PUBLIC;

-- The history leaf that is being filled, and since when. Until it changes for the first time there is no row, so that a
-- restore cannot bring a second one; then leaf 1 is filled, since the installation.
CREATE TABLE jobqueue.history_ring (
	slot         smallint    NOT NULL CONSTRAINT history_ring_slot CHECK (
		slot OPERATOR(pg_catalog.>=) 1::smallint AND slot OPERATOR(pg_catalog.<=) 8::smallint),
	filled_since timestamptz NOT NULL
);

-- Keys that are held for a period, whatever happens to the task. There is no foreign key, because jobqueue.tasks has no
-- unique constraint to refer to.
CREATE TABLE jobqueue.unique_keys (
	type       text        NOT NULL CONSTRAINT unique_keys_type_length CHECK (
		pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255),
	unique_key text        NOT NULL CONSTRAINT unique_keys_unique_key_length CHECK (
		pg_catalog.octet_length(unique_key) OPERATOR(pg_catalog.<=) 1024),
	task_id    bigint      NOT NULL,
	expires_at timestamptz NOT NULL,
	CONSTRAINT unique_keys_pkey PRIMARY KEY (type, unique_key)
);
CREATE INDEX unique_keys_expired ON jobqueue.unique_keys (expires_at);

-- These tables have no primary key, so that the rows of a restore cannot violate one. A publication FOR ALL TABLES
-- would make UPDATE and DELETE fail in a table without a replica identity.
ALTER TABLE jobqueue.access REPLICA IDENTITY FULL;
ALTER TABLE jobqueue.history_ring REPLICA IDENTITY FULL;

COMMENT ON TABLE jobqueue.incarnation IS
	'the identity of this installation; two rows, or another database''s row, mean that it is a copy: see '
	'adopt()';
COMMENT ON TABLE jobqueue.handlers IS
	'the function or procedure that runs the tasks of a type, and the role it runs as';
COMMENT ON TABLE jobqueue.queues IS
	'queues that were paused or altered; a queue without a row has the default settings and is not paused';
COMMENT ON TABLE jobqueue.access IS 'the queues in which roles may do what they were granted: see grant_access()';
COMMENT ON TABLE jobqueue.limits IS 'role limits: see limit_role()';
COMMENT ON DOMAIN jobqueue.governed IS 'internal: USAGE on it marks roles whose queues are in jobqueue.access';
COMMENT ON TABLE jobqueue.history_ring IS 'the history partition that is being filled';

COMMENT ON COLUMN jobqueue.incarnation.id IS 'identifies this installation';
COMMENT ON COLUMN jobqueue.incarnation.database IS
	'OID of the database in which it was made; 0 = none, because it is a copy: see adopt()';
COMMENT ON COLUMN jobqueue.incarnation.created_at IS 'when it was installed or adopted';
COMMENT ON COLUMN jobqueue.incarnation.paused_at IS 'when all queues were paused; null = they are not';
COMMENT ON COLUMN jobqueue.incarnation.system_identifier IS
	'of the server on which it was last seen, for information; null = not recorded yet';
COMMENT ON COLUMN jobqueue.incarnation.server_version IS
	'major version of that server; pg_upgrade changes the system identifier';
COMMENT ON COLUMN jobqueue.incarnation.server_started_at IS
	'the start of the server during which it was adopted; jobqueue.start_paused only counts for later starts';
COMMENT ON COLUMN jobqueue.incarnation.adopted_subscriptions IS
	'subscriptions that brought tasks when it was adopted; they no longer pause the database';
COMMENT ON COLUMN jobqueue.handlers.type IS 'the type of the tasks that it runs';
COMMENT ON COLUMN jobqueue.handlers.handler IS 'schema-qualified signature of the function or procedure';
COMMENT ON COLUMN jobqueue.handlers.queue IS 'the queue of tasks of the type that are enqueued without one';
COMMENT ON COLUMN jobqueue.handlers.run_as IS 'the role it runs as, which also owns the registration';
COMMENT ON COLUMN jobqueue.handlers.run_as_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.handlers.function_owner IS
	'owner of the function when it was registered; a function of another owner is not run instead';
COMMENT ON COLUMN jobqueue.handlers.backoff_owner IS 'owner of the back-off function, in the same way';
COMMENT ON COLUMN jobqueue.handlers.max_attempts IS 'for tasks that have no value of their own';
COMMENT ON COLUMN jobqueue.handlers.backoff IS
	'how the wait grows from one failed attempt to the next: fixed, linear, exponential';
COMMENT ON COLUMN jobqueue.handlers.backoff_function IS
	'signature of f(attempt integer, error text) that returns the wait instead';
COMMENT ON COLUMN jobqueue.handlers.first_delay IS 'the wait after the first failed attempt';
COMMENT ON COLUMN jobqueue.handlers.max_delay IS 'the longest wait, before jitter';
COMMENT ON COLUMN jobqueue.handlers.jitter IS
	'the fraction of the wait by which it is made longer or shorter at random, 0 to 1';
COMMENT ON COLUMN jobqueue.handlers.timeout IS
	'how long an attempt may take, for tasks that have no value of their own; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.discard_sqlstates IS
	'SQLSTATEs, or classes of them (two characters), that are not retried';
COMMENT ON COLUMN jobqueue.handlers.dead_letter_queue IS
	'the queue that tasks go to instead of being failed; no worker serves it';
COMMENT ON COLUMN jobqueue.handlers.max_running IS
	'tasks of the type that run at once, in all queues for which the handler''s limits apply; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.rate_limit IS 'tasks of the type that start in each rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.handlers.rate_period IS 'null = 1 second';
COMMENT ON COLUMN jobqueue.handlers.rate_burst IS 'how many tasks may start at once after a pause; null = rate_limit';
COMMENT ON COLUMN jobqueue.handlers.group_limit IS
	'tasks of the type with the same group_key that run at once; null = the queue''s value';
COMMENT ON COLUMN jobqueue.handlers.rate_changed_at IS
	'when the rate was last changed; the bucket is full at that time';
COMMENT ON COLUMN jobqueue.handlers.on_failure IS
	'a task of this type is added when a task has failed permanently; null = none';
COMMENT ON COLUMN jobqueue.handlers.batch_size IS 'how many tasks a batch handler is given at once, at most';
COMMENT ON COLUMN jobqueue.handlers.governed IS
	'registered by the role that it runs as: it gets only tasks of queues in which that role may work at the '
	'time';
COMMENT ON COLUMN jobqueue.handlers.incarnation IS
	'the installation in which it was registered; handlers of another one do not run';
COMMENT ON COLUMN jobqueue.handlers.created_at IS 'when it was first registered';
COMMENT ON COLUMN jobqueue.handlers.updated_at IS 'when it was last registered or altered';
COMMENT ON COLUMN jobqueue.queues.queue IS 'name of the queue';
COMMENT ON COLUMN jobqueue.queues.paused_at IS 'when it was paused; null = it is not paused';
COMMENT ON COLUMN jobqueue.queues.max_running IS 'tasks that run at once, in the server and outside; null = no limit';
COMMENT ON COLUMN jobqueue.queues.weight IS
	'its share of a worker compared with other queues; null = 1; see jobqueue.queue_order';
COMMENT ON COLUMN jobqueue.queues.rate_limit IS 'tasks that start in each rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.queues.rate_period IS 'null = 1 second';
COMMENT ON COLUMN jobqueue.queues.rate_burst IS 'how many tasks may start at once after a pause; null = rate_limit';
COMMENT ON COLUMN jobqueue.queues.group_limit IS
	'tasks with the same group_key that run at once; null = 1: first in, first out';
COMMENT ON COLUMN jobqueue.queues.group_hold_on_retry IS
	'with a group_limit of 1: whether a group waits while its first task waits for a retry; null = yes';
COMMENT ON COLUMN jobqueue.queues.group_rate_limit IS
	'tasks with the same group_key that start in each group_rate_period; null = no limit';
COMMENT ON COLUMN jobqueue.queues.group_rate_period IS 'null = 1 second';
COMMENT ON COLUMN jobqueue.queues.group_rate_burst IS
	'how many of them may start at once after a pause; null = group_rate_limit';
COMMENT ON COLUMN jobqueue.queues.aging IS 'waiting this long counts as one step of priority; null = never';
COMMENT ON COLUMN jobqueue.queues.rate_changed_at IS 'when a rate was last changed; buckets are full at that time';
COMMENT ON COLUMN jobqueue.queues.created_at IS 'when the row was made';
COMMENT ON COLUMN jobqueue.access.role IS 'the role; its members have the same access';
COMMENT ON COLUMN jobqueue.access.role_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.access.access IS 'producer, consumer, manager or sql';
COMMENT ON COLUMN jobqueue.access.queue IS 'in which queue; null = in all';
COMMENT ON COLUMN jobqueue.access.granted_by IS 'the role that granted it';
COMMENT ON COLUMN jobqueue.access.granted_at IS 'when it was granted';
COMMENT ON COLUMN jobqueue.limits.role IS 'the role; not its members';
COMMENT ON COLUMN jobqueue.limits.max_workers IS 'the maximum number of worker processes that run its handlers at once';
COMMENT ON COLUMN jobqueue.limits.max_queued IS 'the maximum number of waiting tasks that it has added';
COMMENT ON COLUMN jobqueue.limits.max_payload IS 'the maximum length of a payload as text, in bytes';
COMMENT ON COLUMN jobqueue.limits.max_schedules IS 'the maximum number of schedules that belong to it';
COMMENT ON TABLE jobqueue.unique_keys IS
	'the unique keys that are held for a period (unique_for); the scheduler removes those whose period is over';
COMMENT ON COLUMN jobqueue.unique_keys.type IS 'the type that the key belongs to';
COMMENT ON COLUMN jobqueue.unique_keys.unique_key IS 'the key';
COMMENT ON COLUMN jobqueue.unique_keys.task_id IS 'the task that was added with it; it may no longer exist';
COMMENT ON COLUMN jobqueue.unique_keys.expires_at IS 'when the key becomes free again';
COMMENT ON COLUMN jobqueue.history_ring.slot IS 'the partition that is being filled, 1 to 8';
COMMENT ON COLUMN jobqueue.history_ring.filled_since IS 'since when it is being filled';

SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_live', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_failed', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_1', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_2', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_3', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_4', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_5', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_6', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_7', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.tasks_history_8', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.incarnation', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.handlers', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.queues', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.access', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.limits', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.history_ring', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.unique_keys', '');
