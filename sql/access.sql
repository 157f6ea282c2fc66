-- grant_access and revoke_access: what each level may do, and nothing else
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE ROLE a_nobody;
CREATE ROLE a_producer;
CREATE ROLE a_consumer;
CREATE ROLE a_manager;
SELECT jobqueue.grant_access('a_producer', 'producer'), jobqueue.grant_access('a_consumer', 'consumer'),
	jobqueue.grant_access('a_manager', 'manager');
CREATE FUNCTION a_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';

-- each statement as each role: "ok", or the SQLSTATE. Undone at once.
CREATE FUNCTION pg_temp.as_role(role name, command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	EXECUTE command;
	RAISE EXCEPTION 'undo' USING ERRCODE = 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN 'ok';
	WHEN OTHERS THEN RETURN sqlstate;
END $$;
CREATE TEMPORARY TABLE commands (n serial, command text);
INSERT INTO commands (command) VALUES
	($$SELECT jobqueue.version()$$),
	($$SELECT jobqueue.current_task()$$),
	($$SELECT jobqueue.enqueue('a')$$),
	($$SELECT jobqueue.enqueue('a', '{}', 'q', 1::smallint, now(), NULL, 3, '1 min', '{}')$$),
	($$SELECT jobqueue.enqueue_many('a', '{1,2}')$$),
	($$INSERT INTO jobqueue.tasks (type) VALUES ('a')$$),
	($$INSERT INTO jobqueue.tasks (type, payload, queue, priority, run_at, max_attempts, timeout, metadata)
		VALUES ('a', '1', 'q', 1, now(), 1, '1 s', '1')$$),
	($$INSERT INTO jobqueue.tasks (type) VALUES ('a') RETURNING id$$),
	($$INSERT INTO jobqueue.tasks (type) VALUES ('a') RETURNING *$$),
	-- what would be forgery
	($$INSERT INTO jobqueue.tasks (type, created_by) VALUES ('a', 'postgres')$$),
	($$INSERT INTO jobqueue.tasks (type, status) VALUES ('a', 'completed')$$),
	($$INSERT INTO jobqueue.tasks (type, attempts) VALUES ('a', 1)$$),
	($$INSERT INTO jobqueue.tasks (id, type) VALUES (1, 'a')$$),
	($$INSERT INTO jobqueue.tasks (type, slot) VALUES ('a', 1)$$),
	($$INSERT INTO jobqueue.tasks (type, created_at) VALUES ('a', 'epoch')$$),
	($$INSERT INTO jobqueue.tasks (type, claimed_by) VALUES ('a', 'me')$$),
	($$INSERT INTO jobqueue.tasks (type, lease_expires_at) VALUES ('a', 'infinity')$$),
	($$INSERT INTO jobqueue.tasks (type, result) VALUES ('a', '1')$$),
	($$INSERT INTO jobqueue.tasks (type, crashes) VALUES ('a', 1)$$),
	($$INSERT INTO jobqueue.tasks (type, failures) VALUES ('a', '[]')$$),
	($$INSERT INTO jobqueue.tasks (type, origin_queue) VALUES ('a', 'q')$$),
	($$INSERT INTO jobqueue.tasks (type, progress) VALUES ('a', 1)$$),
	($$INSERT INTO jobqueue.tasks_live (type) VALUES ('a')$$),
	($$INSERT INTO jobqueue.tasks_history_1 (type, status, slot) VALUES ('a', 'completed', 1)$$),
	($$SELECT setval('jobqueue.tasks_id_seq', 1)$$),
	-- reading
	($$SELECT id FROM jobqueue.tasks$$),
	($$SELECT payload FROM jobqueue.tasks$$),
	($$SELECT * FROM jobqueue.tasks_live$$),
	($$SELECT * FROM jobqueue.queue_status$$),
	($$SELECT * FROM jobqueue.worker_status$$),
	($$SELECT * FROM jobqueue.running_tasks$$),
	($$SELECT * FROM jobqueue.handlers$$),
	($$SELECT * FROM jobqueue.queues$$),
	($$SELECT * FROM jobqueue.incarnation$$),
	-- working
	($$SELECT jobqueue.claim()$$),
	($$SELECT jobqueue.complete(1, 1)$$),
	($$SELECT jobqueue.complete_many('{1}', '{1}')$$),
	($$SELECT jobqueue.complete_and_claim('{1}', '{1}')$$),
	($$SELECT jobqueue.fail(1, 1, 'x')$$),
	($$SELECT jobqueue.extend_lease(1, 1)$$),
	($$SELECT jobqueue.release(1, 1)$$),
	($$SELECT jobqueue.snooze(1, 1, '1 s')$$),
	($$SELECT jobqueue.discard(1, 1, 'x')$$),
	($$SELECT jobqueue.set_progress(1, 1, 0.5)$$),
	($$SELECT jobqueue.drain()$$),
	-- in a handler only, but for everybody: 55000
	($$SELECT jobqueue.snooze('1 s')$$),
	($$SELECT jobqueue.discard('x')$$),
	($$SELECT jobqueue.set_progress(0.5)$$),
	($$UPDATE jobqueue.tasks SET status = 'processing', processed_at = now(),
		updated_at = now() WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' ORDER BY created_at
			LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING *$$),
	($$UPDATE jobqueue.tasks SET status = 'completed' WHERE id = 1$$),
	($$UPDATE jobqueue.tasks SET payload = '1'$$),
	($$UPDATE jobqueue.tasks SET type = 'b'$$),
	($$UPDATE jobqueue.tasks SET created_by = 'postgres'$$),
	($$UPDATE jobqueue.tasks SET attempts = 0$$),
	($$DELETE FROM jobqueue.tasks$$),
	($$TRUNCATE jobqueue.tasks$$),
	-- managing
	($$SELECT jobqueue.cancel(1)$$),
	($$SELECT jobqueue.retry(1)$$),
	($$SELECT jobqueue.pause_queue('a-q')$$),
	($$SELECT jobqueue.resume_queue('a-q')$$),
	($$SELECT jobqueue.register_handler('a-type', 'a_handler(jsonb)')$$),
	($$SELECT jobqueue.alter_handler('a-no-type', max_attempts => 1)$$),
	($$SELECT jobqueue.unregister_handler('a-no-type')$$),
	($$SELECT jobqueue.cancel_tasks(type => 'a-no-type')$$),
	($$SELECT jobqueue.retry_failed(type => 'a-no-type')$$),
	($$SELECT jobqueue.delete_tasks(type => 'a-no-type')$$),
	($$SELECT jobqueue.purge_queue('a-q')$$),
	($$INSERT INTO jobqueue.handlers (type, handler, run_as, incarnation)
		VALUES ('a', 'a_handler(jsonb)', 'postgres', gen_random_uuid())$$),
	($$UPDATE jobqueue.handlers SET run_as = 'postgres'$$),
	($$DELETE FROM jobqueue.handlers$$),
	($$INSERT INTO jobqueue.queues (queue) VALUES ('x')$$),
	($$DELETE FROM jobqueue.incarnation$$),
	-- administration: the extension's owner
	($$SELECT jobqueue.adopt()$$),
	($$SELECT jobqueue.grant_access('a_nobody', 'producer')$$),
	($$SELECT jobqueue.revoke_access('a_manager', 'manager')$$),
	($$CREATE TABLE jobqueue.mine ()$$),
	($$CREATE FUNCTION jobqueue.mine() RETURNS void LANGUAGE sql AS ''$$),
	($$CREATE TRIGGER mine BEFORE INSERT ON jobqueue.tasks EXECUTE FUNCTION suppress_redundant_updates_trigger()$$),
	($$ALTER TABLE jobqueue.tasks DISABLE TRIGGER ALL$$);
-- nobody, producer, consumer, manager
SELECT format('%-6s%-6s%-6s%-6s%s', pg_temp.as_role('a_nobody', command), pg_temp.as_role('a_producer', command),
	pg_temp.as_role('a_consumer', command),
	pg_temp.as_role('a_manager', command), command) FROM commands ORDER BY n;

-- a producer sees its own tasks, and no others; COPY and row-level security exclude each other
SELECT jobqueue.enqueue('a-others') > 0;
SET ROLE a_producer;
INSERT INTO jobqueue.tasks (type) VALUES ('a-own') RETURNING id > 0;
SELECT count(*) FROM jobqueue.enqueue_many('a-own', '{"1"}');
SELECT type, payload, created_by, status FROM jobqueue.tasks ORDER BY id;
\copy jobqueue.tasks (type, payload) FROM /dev/null
RESET ROLE;
SELECT type, payload, created_by, status FROM jobqueue.tasks WHERE type = 'a-own' ORDER BY id;

-- a consumer works, with functions and by hand
SET ROLE a_consumer;
SELECT jobqueue.complete(id, attempts, '"done"') FROM jobqueue.claim(types => '{a-own}');
UPDATE jobqueue.tasks SET status = 'processing' WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' AND
	type = 'a-own' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, payload, status \gset
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id;
RESET ROLE;
SELECT :'payload', :'status';
SELECT status, finished_at IS NOT NULL FROM jobqueue.tasks WHERE type = 'a-own' ORDER BY id;

-- the levels do not depend on each other: taking one leaves the others whole
SELECT jobqueue.grant_access('a_consumer', 'producer'), jobqueue.grant_access('a_consumer', 'manager'),
	jobqueue.grant_access('a_consumer', 'manager');
SELECT jobqueue.revoke_access('a_consumer', 'consumer');
CREATE TEMPORARY VIEW levels AS SELECT role, string_agg(CASE WHEN pg_temp.as_role(role, command) = 'ok' THEN what
	ELSE '-' END, ' ' ORDER BY n) AS may
	FROM unnest('{a_nobody,a_producer,a_consumer,a_manager}'::name[]) role, (VALUES
		(1, 'version', 'SELECT jobqueue.version()'), (2, 'enqueue', 'SELECT jobqueue.enqueue(''a'')'),
			(3, 'insert', 'INSERT INTO jobqueue.tasks (type) VALUES (''a'') RETURNING id'),
		(4, 'read', 'SELECT * FROM jobqueue.tasks'), (5, 'status', 'SELECT * FROM jobqueue.queue_status'),
			(6, 'claim', 'SELECT jobqueue.claim()'),
		(7, 'update', 'UPDATE jobqueue.tasks SET status = ''pending'' WHERE id = -1'),
			(8, 'workers', 'SELECT * FROM jobqueue.worker_status'), (9, 'cancel', 'SELECT jobqueue.cancel(-1)'))
				c(n, what, command)
	GROUP BY role;
SELECT * FROM levels ORDER BY role;
SELECT jobqueue.grant_access('a_consumer', 'consumer');
SELECT jobqueue.revoke_access('a_consumer', 'manager');
SELECT may FROM levels WHERE role = 'a_consumer';
SELECT jobqueue.revoke_access('a_consumer', 'producer');
SELECT may FROM levels WHERE role = 'a_consumer';
-- taking what a role has not got changes nothing
SELECT jobqueue.revoke_access('a_consumer', 'producer'), jobqueue.revoke_access('a_nobody', 'manager');
SELECT * FROM levels WHERE role IN ('a_consumer', 'a_nobody') ORDER BY role;

-- a member of the role has its rights
GRANT a_producer TO a_nobody;
SET ROLE a_nobody;
SELECT jobqueue.enqueue('a-member') > 0;
RESET ROLE;
REVOKE a_producer FROM a_nobody;
SELECT created_by FROM jobqueue.tasks WHERE type = 'a-member';
-- a role whose name needs quoting; revoked, nothing is left, and it can be dropped
CREATE ROLE "a ""Role"" with %s";
SELECT jobqueue.grant_access('a "Role" with %s', 'producer'), jobqueue.grant_access('a "Role" with %s', 'consumer'),
	jobqueue.grant_access('a "Role" with %s', 'manager');
SET ROLE "a ""Role"" with %s";
SELECT jobqueue.enqueue('a-quoted') > 0;
RESET ROLE;
SELECT jobqueue.revoke_access('a "Role" with %s', 'producer'), jobqueue.revoke_access('a "Role" with %s', 'consumer'),
	jobqueue.revoke_access('a "Role" with %s', 'manager');
DROP ROLE "a ""Role"" with %s";

-- a role that has the same rights by itself keeps what was not granted as a level
GRANT USAGE ON SCHEMA jobqueue TO a_nobody;
GRANT EXECUTE ON FUNCTION jobqueue.adopt() TO a_nobody;
SELECT pg_temp.as_role('a_nobody', 'SELECT jobqueue.adopt()');
REVOKE ALL ON SCHEMA jobqueue FROM a_nobody;
REVOKE ALL ON FUNCTION jobqueue.adopt() FROM a_nobody;

SELECT jobqueue.revoke_access('a_producer', 'producer'), jobqueue.revoke_access('a_consumer', 'consumer'),
	jobqueue.revoke_access('a_manager', 'manager');
SELECT * FROM levels ORDER BY role;
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$grant_access(NULL, 'producer')$$),
	($$grant_access('a_nobody', NULL)$$),
	($$grant_access('a_nobody', '')$$),
	($$grant_access('a_nobody', 'Producer')$$),
	($$grant_access('a_nobody', 'superuser')$$),
	($$grant_access('a_no_such_role', 'producer')$$),
	($$grant_access('', 'producer')$$),
	($$grant_access('public', 'producer')$$),
	($$revoke_access(NULL, 'producer')$$),
	($$revoke_access('a_nobody', NULL)$$),
	($$revoke_access('a_nobody', 'reader')$$),
	($$revoke_access('a_no_such_role', 'producer')$$)
) v(command);
DROP VIEW levels;
DROP ROLE a_nobody, a_producer, a_consumer, a_manager;
DROP FUNCTION a_handler;
DELETE FROM jobqueue.tasks;
