-- SQL commands as tasks: what is let in, and for whom; what it leaves in the tables. How they run:
-- test/tap/t/026_sql_commands.pl.
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

-- nothing must run here: all tasks are held back
SELECT jobqueue.pause_queue('held');
CREATE ROLE sql_runner;
CREATE ROLE sql_producer;
CREATE ROLE sql_manager;
SELECT jobqueue.grant_access('sql_runner', 'sql', 'held'), jobqueue.grant_access('sql_producer', 'producer'),
	jobqueue.grant_access('sql_manager', 'manager'), jobqueue.grant_access('sql_manager', 'producer'),
		jobqueue.grant_access('sql_manager', 'consumer');

-- who may
SET ROLE sql_runner;
SELECT jobqueue.enqueue_sql('SELECT 1', 'held') AS first \gset
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', NULL)$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue('x', queue => 'held')$$);
SELECT type ~ '^sql:[0-9]+$', payload, status, queue, created_by, run_at, timeout, max_attempts FROM jobqueue.tasks;
RESET ROLE;
SELECT type = 'sql:' || 'sql_runner'::regrole::oid FROM jobqueue.tasks WHERE id = :first;
SELECT type = 'sql:' || run_as_oid, handler, queue, run_as, run_as_oid = 'sql_runner'::regrole, max_attempts, backoff,
	first_delay,
	discard_sqlstates, batch_size, governed FROM jobqueue.handlers WHERE run_as = 'sql_runner';
SET ROLE sql_producer;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', 'held')$$);
SET ROLE sql_manager;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', 'held')$$);
RESET ROLE;
SELECT role, access, queue, source FROM jobqueue.access_status WHERE access = 'sql';
SELECT jobqueue.revoke_access('sql_runner', 'sql');
SET ROLE sql_runner;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', 'held')$$);
RESET ROLE;
-- by hand: for all queues
GRANT USAGE ON SCHEMA jobqueue TO sql_runner;
GRANT EXECUTE ON FUNCTION jobqueue.enqueue_sql TO sql_runner;
SELECT role, access, queue, source FROM jobqueue.access_status WHERE access = 'sql';
SET ROLE sql_runner;
SELECT jobqueue.enqueue_sql(command => 'SELECT 2', queue => 'held', timeout => '90 s', run_at => '2100-01-01') AS second
	\gset
RESET ROLE;
SELECT payload, status, queue, created_by, run_at::date, timeout FROM jobqueue.tasks WHERE id = :second;
-- one type for a role, whoever calls and however often; inside a function with its owner's rights, it is the owner
CREATE FUNCTION by_definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER
	AS $$SELECT jobqueue.enqueue_sql('SELECT 3', 'held')$$;
ALTER FUNCTION by_definer() OWNER TO sql_runner;
SELECT by_definer() AS third \gset
SELECT created_by, type = (SELECT type FROM jobqueue.tasks WHERE id = :first) FROM jobqueue.tasks WHERE id = :third;
SELECT count(*) FROM jobqueue.handlers WHERE run_as = 'sql_runner';
-- a superuser: no notice
SET client_min_messages = notice;
SELECT jobqueue.enqueue_sql('SELECT 4', 'held') AS superusers \gset
SET client_min_messages = warning;
SELECT created_by = current_user FROM jobqueue.tasks WHERE id = :superusers;
-- the limits of enqueue()
SELECT jobqueue.limit_role('sql_runner', max_payload => 100);
SET ROLE sql_runner;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1 /*' || repeat('x', 100) || '*/', 'held')$$);
RESET ROLE;
SELECT jobqueue.limit_role('sql_runner', max_queued => 2);
SET ROLE sql_runner;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', 'held')$$);
RESET ROLE;
SELECT jobqueue.limit_role('sql_runner');

-- arguments
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql(NULL)$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', '')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', repeat('q', 64))$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', timeout => '0')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', timeout => '-1 s')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', run_at => 'infinity')$$);
-- one statement, that can be parsed
SELECT jobqueue.enqueue_sql('SELEC 1');
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql(' ')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('; ;')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('-- nothing')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1; SELECT 2')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1; COMMIT')$$);
-- ... and that is nothing without a client, or a session
SELECT c, pg_temp.try(format('SELECT jobqueue.enqueue_sql(%L, ''held'') > 0', c)) FROM unnest(ARRAY[
	'BEGIN', 'COMMIT', 'ROLLBACK', 'SAVEPOINT s', 'PREPARE TRANSACTION ''x''', 'COMMIT PREPARED ''x''',
		'START TRANSACTION', 'ABORT',
	'COPY t FROM STDIN', 'COPY t TO STDOUT', 'COPY (SELECT 1) TO STDOUT', 'LISTEN l', 'UNLISTEN *',
		'DECLARE c CURSOR FOR SELECT 1',
	'FETCH c', 'MOVE c', 'CLOSE c', 'PREPARE p AS SELECT 1', 'EXECUTE p', 'DEALLOCATE p', 'SET ROLE postgres',
		'SET work_mem = 64',
	'RESET ALL', 'SET SESSION AUTHORIZATION postgres', 'SET TRANSACTION READ ONLY', 'DISCARD ALL',
	'SELECT 1;', 'COPY t TO ''/tmp/x''', 'COPY t TO PROGRAM ''true''', 'NOTIFY n', 'VACUUM', 'DO ''BEGIN END''',
		'TABLE t',
	'MERGE INTO t USING t u ON false WHEN MATCHED THEN DO NOTHING', 'EXPLAIN SELECT 1', 'LOCK TABLE t'])
		WITH ORDINALITY u(c, n) ORDER BY n;

-- no other way makes such tasks, or handlers for them
SELECT pg_temp.try($$SELECT jobqueue.enqueue('sql:1')$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue_many('sql:1', '{}')$$);
CREATE TABLE watched (a int);
CREATE TRIGGER t AFTER INSERT ON watched FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('sql:1');
SELECT pg_temp.try($$INSERT INTO watched VALUES (1)$$);
CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT pg_temp.try($$SELECT jobqueue.register_handler('sql:1', 'nothing(jsonb)')$$);
SELECT type AS reserved FROM jobqueue.handlers WHERE run_as = 'sql_runner' \gset
SELECT pg_temp.try(format('SELECT jobqueue.register_handler(%L, ''nothing(jsonb)'')', :'reserved'));
SELECT pg_temp.try(format('SELECT jobqueue.alter_handler(%L, max_attempts => 1)', :'reserved'));
SELECT pg_temp.try($$SELECT jobqueue.register_handler('mine', 'jobqueue._run_sql(jobqueue.tasks)')$$);
SELECT pg_temp.try(format('SELECT jobqueue.claim(''held'', types => ARRAY[%L])', :'reserved'));
SELECT pg_temp.try(
	format('SELECT jobqueue.complete_and_claim(''{}'', ''{}'', queue => ''held'', types => ARRAY[%L, ''a''])',
		:'reserved'));
-- claim() and drain() leave them alone, with a handler or without
BEGIN;
SELECT jobqueue.enqueue_sql('SELECT 5', 'other') AS fifth \gset
SELECT count(*) FROM jobqueue.claim('other');
SELECT count(*) FROM jobqueue.drain('other');
DELETE FROM jobqueue.handlers WHERE handler = 'jobqueue._run_sql(jobqueue.tasks)';
SELECT count(*) FROM jobqueue.claim('other');
SELECT count(*) FROM jobqueue.claim(NULL, 1000, types => NULL) WHERE type ~ '^sql:';
SELECT jobqueue.register_handler('other', 'nothing(jsonb)', dead_letter_queue => 'other');
SELECT count(*) FROM jobqueue.claim('other');
SELECT count(*) FROM jobqueue.drain(include_scheduled => true) WHERE type ~ '^sql:';
SELECT status FROM jobqueue.tasks WHERE id = :fifth;
ROLLBACK;
-- the owner may unregister it; the next call makes it again
SELECT pg_temp.try(format('SELECT jobqueue.unregister_handler(%L)', :'reserved'));
SELECT count(*) FROM jobqueue.handlers WHERE run_as = 'sql_runner';
SET ROLE sql_runner;
SELECT jobqueue.enqueue_sql('SELECT 6', 'held') > 0;
RESET ROLE;
SELECT count(*), bool_and(type = :'reserved') FROM jobqueue.handlers WHERE run_as = 'sql_runner';

-- forgery in plain SQL: refused for roles that are subject to row-level security
SET ROLE sql_producer;
SELECT pg_temp.try(format('INSERT INTO jobqueue.tasks (type, payload) VALUES (%L, ''{"command": "SELECT 1"}'')',
	:'reserved'));
SET ROLE sql_manager;
SELECT pg_temp.try(
	format('WITH u AS (UPDATE jobqueue.tasks SET status = ''completed'' WHERE type = %L RETURNING 1) SELECT count(*) '
		'FROM u', :'reserved'));
SELECT count(*) > 0 FROM jobqueue.tasks WHERE type = :'reserved';
-- managers cancel, purge and delete them
SELECT jobqueue.cancel(:second);
SELECT status FROM jobqueue.tasks WHERE id = :second;
SELECT jobqueue.purge_queue('held') > 0;
RESET ROLE;

-- superusers' handlers are not allowed
ALTER SYSTEM SET jobqueue.allow_superuser_handlers = off;
SELECT pg_reload_conf();
\c -
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
SELECT pg_temp.try($$SELECT jobqueue.enqueue_sql('SELECT 1', 'held')$$) ~
	'^42501: role ".*" is a superuser, and may not run tasks$';
ALTER SYSTEM RESET jobqueue.allow_superuser_handlers;
SELECT pg_reload_conf();
\c -
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

-- a new role of an old name has a type of its own, and the old one's is gone
CREATE ROLE sql_renewed;
SELECT jobqueue.grant_access('sql_renewed', 'sql');
SET ROLE sql_renewed;
SELECT jobqueue.enqueue_sql('SELECT 7', 'held') AS old \gset
RESET ROLE;
DROP OWNED BY sql_renewed;
DROP ROLE sql_renewed;
CREATE ROLE sql_renewed;
SELECT jobqueue.grant_access('sql_renewed', 'sql');
SET ROLE sql_renewed;
SELECT jobqueue.enqueue_sql('SELECT 8', 'held') AS new \gset
RESET ROLE;
SELECT count(DISTINCT type), count(DISTINCT created_by) FROM jobqueue.tasks WHERE id IN (:old, :new);
SELECT count(*), bool_and(run_as_oid = 'sql_renewed'::regrole) FROM jobqueue.handlers WHERE run_as = 'sql_renewed';
-- whose OID another role's type has: another name
UPDATE jobqueue.handlers SET run_as = 'sql_runner' WHERE run_as = 'sql_renewed';
SET ROLE sql_renewed;
SELECT jobqueue.enqueue_sql('SELECT 9', 'held') AS other \gset
RESET ROLE;
SELECT type ~ ('^sql:' || 'sql_renewed'::regrole::oid || ':[-0-9a-f]{36}$') FROM jobqueue.tasks WHERE id = :other;
SELECT count(*) FROM jobqueue.handlers WHERE run_as = 'sql_renewed';

SELECT jobqueue.purge_queue('held') > 0;
DELETE FROM jobqueue.handlers WHERE handler = 'jobqueue._run_sql(jobqueue.tasks)';
DELETE FROM jobqueue.tasks WHERE type ~ '^sql:';
DELETE FROM jobqueue.queues WHERE queue = 'held';
DROP TABLE watched;
DROP FUNCTION nothing, by_definer;
DROP OWNED BY sql_runner, sql_producer, sql_manager, sql_renewed;
DROP ROLE sql_runner;
DROP ROLE sql_producer;
DROP ROLE sql_manager;
DROP ROLE sql_renewed;
