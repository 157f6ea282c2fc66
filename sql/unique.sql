-- unique tasks: who gets a key, what happens to those who do not, and how long it is held
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
-- What a task is like.
CREATE FUNCTION pg_temp.task(task_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s %s in %s, priority %s, key %s/%s, group %s, attempts %s/%s, timeout %s, metadata %s, run_at %s',
		payload, status, queue, priority,
		unique_key, unique_scope, group_key, attempts, max_attempts, timeout, metadata,
		CASE WHEN run_at > now() + interval '90 min' THEN 'in 2 h' WHEN run_at > now() THEN 'in 1 h' WHEN run_at IS
			NOT NULL THEN 'past' END)
	FROM jobqueue.tasks WHERE id = task_id
$$;
\set ECHO all

-- live: held until the task is finished. The same id for everybody, also in one statement; nothing is changed
SELECT jobqueue.enqueue('u', '1', unique_key => 'k') AS id \gset
SELECT jobqueue.enqueue('u', '2', unique_key => 'k', priority => 5, queue => 'u-other', delay => '1 h', metadata => '1')
	= :id;
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u', '3', unique_key => 'k');
SELECT pg_temp.task(:id);
SELECT count(DISTINCT jobqueue.enqueue('u', to_jsonb(n), unique_key => 'same')) FROM generate_series(1, 10) n;
SELECT id > :id, is_new FROM jobqueue.enqueue_unique('u', unique_key => 'other');
-- a key belongs to its type; without key, every task is new
SELECT is_new FROM jobqueue.enqueue_unique('u2', unique_key => 'k');
SELECT count(DISTINCT jobqueue.enqueue('u', on_conflict => c)) FROM unnest('{keep,keep,replace,error}'::text[]) c;
-- of a transaction that is rolled back nothing is left
BEGIN;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back');
SAVEPOINT s;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back, too');
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back, too');
ROLLBACK TO s;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back, too');
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back');
ROLLBACK;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'back');
-- processing, put back, put off: still held. Completed, failed, cancelled, deleted, finished by hand: free
SELECT jobqueue.enqueue('u-live', queue => 'u-live', unique_key => 'k') AS id \gset
SELECT id, attempts FROM jobqueue.claim('u-live') \gset c_
SELECT id = :id AND NOT is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k');
SELECT jobqueue.fail(:c_id, :c_attempts, 'again', retry_in => '0');
SELECT id = :id AND NOT is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k');
SELECT id, attempts FROM jobqueue.claim('u-live') \gset c_
SELECT jobqueue.complete(:c_id, :c_attempts);
SELECT id, is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k') \gset
SELECT :'is_new', unique_key, unique_scope FROM jobqueue.tasks WHERE id = :c_id;
SELECT id, attempts FROM jobqueue.claim('u-live') \gset c_
SELECT jobqueue.fail(:c_id, :c_attempts, 'no', retryable => false);
SELECT id AS id2, is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k') \gset
SELECT :'is_new', jobqueue.retry(:id) AS not_while_the_key_is_taken;
SELECT jobqueue.cancel(:id2);
SELECT jobqueue.retry(:id) AS now_it_comes_back;
SELECT id = :id AND NOT is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k');
SELECT jobqueue.delete_tasks('u-live', status => 'pending');
SELECT jobqueue.enqueue('u-live', queue => 'u-live', unique_key => 'k') AS id \gset
BEGIN; -- the scheduler cannot have been there
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id;
SELECT is_new FROM jobqueue.enqueue_unique('u-live', queue => 'u-live', unique_key => 'k');
ROLLBACK;

-- error: it says what is taken, and by whom
DO $$
DECLARE
	id bigint := jobqueue.enqueue('u', unique_key => 'k');
	code text; message text; detail text; hint text;
BEGIN
	PERFORM jobqueue.enqueue('u', unique_key => 'k', on_conflict => 'error');
EXCEPTION WHEN unique_violation THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '% % % %', code, message, replace(detail, id::text, 'ID'), hint;
END $$;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'free', on_conflict => 'error');

-- replace: what waits gets the new payload and time, and what else is given
SELECT jobqueue.enqueue('u', '1', 'u-replace', 3, delay => '1 h', max_attempts => 2, timeout => '1 min',
	metadata => '"old"', unique_key => 'r', group_key => 'g') AS id \gset
SELECT created_at, created_by FROM jobqueue.tasks WHERE id = :id \gset old_
SELECT pg_temp.task(:id);
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u', '2', 'u-replace', delay => '2 h', unique_key => 'r',
	on_conflict => 'replace');
SELECT pg_temp.task(:id);
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u', '3', priority => 1, max_attempts => 7, timeout => '5 min',
	metadata => '"new"', unique_key => 'r', on_conflict => 'replace', group_key => 'other');
SELECT pg_temp.task(:id);
SELECT jobqueue.enqueue('u', '4', run_at => now() + interval '1 h', unique_key => 'r', on_conflict => 'replace') = :id;
SELECT pg_temp.task(:id);
SELECT created_at = :'old_created_at' AND created_by = :'old_created_by' AND updated_at > created_at FROM jobqueue.tasks
	WHERE id = :id;
-- where there is none: a new one
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'new', on_conflict => 'replace');
-- the last of several wins
SELECT count(DISTINCT jobqueue.enqueue('u', to_jsonb(n), unique_key => 'last', on_conflict => 'replace'))
	FROM generate_series(1, 100) n;
SELECT payload FROM jobqueue.tasks WHERE type = 'u' AND unique_key = 'last';
-- blocked stays blocked
SELECT jobqueue.enqueue('u', '1', unique_key => 'b') AS id \gset
UPDATE jobqueue.tasks SET status = 'blocked' WHERE id = :id;
SELECT jobqueue.enqueue('u', '2', unique_key => 'b', on_conflict => 'replace', delay => '1 h') = :id;
SELECT pg_temp.task(:id);
-- one that runs is not touched
SELECT jobqueue.enqueue('u', '1', 'u-running', unique_key => 'running') AS id \gset
SELECT id = :id FROM jobqueue.claim('u-running');
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u', '2', unique_key => 'running', on_conflict => 'replace');
SELECT pg_temp.task(:id);
-- one that waits to be tried again is, and its attempts are those that it has had, and so many more
SELECT jobqueue.fail(:id, 1, 'no', retry_in => '1 h');
SELECT jobqueue.enqueue('u', '3', unique_key => 'running', on_conflict => 'replace', max_attempts => 2) = :id;
SELECT pg_temp.task(:id);
-- a replaced task is claimed where it is now, first in first out
SELECT jobqueue.enqueue('u', to_jsonb(n), 'u-order', unique_key => 'o' || n) > 0 FROM generate_series(1, 3) n;
SELECT payload FROM jobqueue.claim('u-order');
SELECT jobqueue.enqueue('u', '"two"', 'u-order', unique_key => 'o2', on_conflict => 'replace') > 0;
SELECT jobqueue.enqueue('u', '"three"', 'u-order', -1, unique_key => 'o3', on_conflict => 'replace') > 0;
SELECT payload FROM jobqueue.claim('u-order');
SELECT payload FROM jobqueue.claim('u-order');
-- rolled back: claimed as it was
SELECT jobqueue.enqueue('u', '"before"', 'u-order', 5, unique_key => 'o4') > 0;
BEGIN;
SELECT jobqueue.enqueue('u', '"after"', 'u-order', 7, unique_key => 'o4', on_conflict => 'replace') > 0;
ROLLBACK;
SELECT payload, priority FROM jobqueue.claim('u-order');
-- a dead letter keeps its key, and stays as it failed
CREATE FUNCTION u_fails(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;
SET client_min_messages = warning;
SELECT jobqueue.register_handler('u-dies', 'u_fails(jsonb)', 'u-dies', max_attempts => 1,
	dead_letter_queue => 'u-dead');
RESET client_min_messages;
BEGIN; -- no worker can be faster
SELECT jobqueue.enqueue('u-dies', '1', unique_key => 'k') AS id \gset
SELECT jobqueue.fail(id, attempts, 'no', retryable => false) FROM jobqueue.claim('u-dies', types => '{u-dies}');
COMMIT;
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u-dies', '2', delay => '1 h', unique_key => 'k',
	on_conflict => 'replace');
SELECT payload, status, queue, origin_queue FROM jobqueue.tasks WHERE id = :id;

-- waiting: held until it starts. What has started does not get it back, unless a finished one is retried
SELECT jobqueue.enqueue('u-wait', '1', 'u-wait', unique_key => 'k', unique_scope => 'waiting') AS id \gset
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u-wait', '2', 'u-wait', unique_key => 'k',
	unique_scope => 'waiting');
SELECT pg_temp.task(:id);
SELECT id, attempts, unique_scope FROM jobqueue.claim('u-wait') \gset c_
SELECT :'c_unique_scope' AS scope, id AS id2, is_new FROM jobqueue.enqueue_unique('u-wait', '3', 'u-wait', unique_key =>
	'k', unique_scope => 'waiting') \gset n_
SELECT :'n_scope', :'n_is_new', :n_id2 > :id;
-- back it comes without the key
SELECT jobqueue.fail(:c_id, :c_attempts, 'again', retry_in => '0');
SELECT status, unique_scope FROM jobqueue.tasks WHERE unique_key = 'k' AND type = 'u-wait' ORDER BY id;
SELECT id = :n_id2, is_new FROM jobqueue.enqueue_unique('u-wait', '4', 'u-wait', unique_key => 'k',
	on_conflict => 'replace');
SELECT payload, unique_scope FROM jobqueue.tasks WHERE unique_key = 'k' AND type = 'u-wait' ORDER BY id;
SELECT id, attempts FROM jobqueue.claim('u-wait') \gset c_
SELECT jobqueue.release(:c_id, :c_attempts);
SELECT id, attempts FROM jobqueue.claim('u-wait') \gset c_
SELECT jobqueue.fail(:c_id, :c_attempts, 'no', retryable => false);
SELECT jobqueue.retry(:id) AS taken;
SELECT jobqueue.cancel(:n_id2);
SELECT jobqueue.retry(:id) AS free, jobqueue.retry(:n_id2) AS taken;
SELECT status, unique_scope FROM jobqueue.tasks WHERE unique_key = 'k' AND type = 'u-wait' ORDER BY id;
-- the same for a claim by hand
UPDATE jobqueue.tasks SET status = 'processing' WHERE id = :id RETURNING unique_scope;
SELECT is_new FROM jobqueue.enqueue_unique('u-wait', '5', 'u-wait', unique_key => 'k', unique_scope => 'waiting');
UPDATE jobqueue.tasks SET status = 'pending' WHERE id = :id RETURNING unique_scope;

-- for a period: from then on, whatever becomes of the task
SELECT id, is_new FROM jobqueue.enqueue_unique('u-period', '1', 'u-period', unique_key => 'k', unique_for => '1 h')
	\gset
SELECT :'is_new', pg_temp.task(:id);
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u-period', '2', unique_key => 'k', unique_for => '2 h');
SELECT task_id = :id, expires_at - now() BETWEEN '59 min' AND '60 min' FROM jobqueue.unique_keys
	WHERE type = 'u-period';
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u-period', '3', 'u-period', 7, delay => '1 h', unique_key => 'k',
	unique_for => '2 h', on_conflict => 'replace');
SELECT pg_temp.task(:id);
SELECT expires_at - now() BETWEEN '59 min' AND '60 min' FROM jobqueue.unique_keys WHERE type = 'u-period';
SELECT jobqueue.retry(:id);
SELECT jobqueue.complete(c.id, attempts) FROM jobqueue.claim('u-period') c;
SELECT c, e.id = :id, is_new FROM unnest('{keep,replace}'::text[]) c, jobqueue.enqueue_unique('u-period', '4',
	unique_key => 'k', unique_for => '1 h', on_conflict => c) e;
SELECT replace(pg_temp.try($$SELECT jobqueue.enqueue_unique('u-period', unique_key => 'k', unique_for => '1 h',
	on_conflict => 'error')$$), :'id', 'ID');
DELETE FROM jobqueue.tasks WHERE id = :id;
SELECT id = :id, is_new FROM jobqueue.enqueue_unique('u-period', '5', unique_key => 'k', unique_for => '1 h');
-- keys of tasks and keys of periods do not see each other
SELECT is_new FROM jobqueue.enqueue_unique('u-period', unique_key => 'k');
-- rolled back: neither key nor task
BEGIN;
SELECT is_new FROM jobqueue.enqueue_unique('u-period', unique_key => 'back', unique_for => '1 h');
ROLLBACK;
SELECT is_new FROM jobqueue.enqueue_unique('u-period', unique_key => 'back', unique_for => '1 h');
-- when it is over, the key is free, though the task still waits
BEGIN;
SELECT id, is_new FROM jobqueue.enqueue_unique('u-period', '1', 'u-over', unique_key => 'over', unique_for => '1 h')
	\gset
UPDATE jobqueue.unique_keys SET expires_at = clock_timestamp() WHERE unique_key = 'over';
SELECT id > :id, is_new FROM jobqueue.enqueue_unique('u-period', '2', 'u-over', unique_key => 'over',
	unique_for => '1 h');
SELECT id > :id, is_new FROM jobqueue.enqueue_unique('u-period', '3', 'u-over', unique_key => 'over',
	unique_for => '1 h');
SELECT payload, status FROM jobqueue.tasks WHERE queue = 'u-over' ORDER BY id;
COMMIT;
-- a failed one that is retried has no key to lose
SELECT jobqueue.fail(id, attempts, 'no', retryable => false) FROM jobqueue.claim('u-over');
SELECT jobqueue.retry(:id), unique_scope FROM jobqueue.tasks WHERE id = :id;

-- the limits of a role: what adds nothing counts for nothing
CREATE ROLE u_limited;
SELECT jobqueue.grant_access('u_limited', 'producer');
SELECT jobqueue.limit_role('u_limited', max_queued => 2, max_payload => 10);
SET ROLE u_limited;
SELECT pg_temp.try(format('SELECT is_new FROM jobqueue.enqueue_unique(''u-limit'', unique_key => %L)', k))
	FROM unnest('{a,a,a,b,b,c,a,b}'::text[]) k;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('u-limit')$$);
SELECT pg_temp.try(format($$SELECT is_new FROM jobqueue.enqueue_unique('u-limit', '"12345678901"', unique_key => 'a',
	on_conflict => %L)$$, c)) FROM unnest('{keep,replace}'::text[]) c;
SELECT pg_temp.try($$SELECT is_new FROM jobqueue.enqueue_unique('u-limit', '"1"', unique_key => 'a',
	on_conflict => 'replace')$$);
RESET ROLE;
SELECT jobqueue.limit_role('u_limited');
SELECT jobqueue.revoke_access('u_limited', 'producer');

-- what is refused
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$enqueue('u', unique_key => '')$$),
	($$enqueue('u', unique_key => repeat('k', 1025))$$),
	($$enqueue('u', unique_key => 'k', on_conflict => 'ignore')$$),
	($$enqueue('u', on_conflict => 'KEEP')$$),
	($$enqueue('u', unique_key => 'k', unique_scope => 'ever')$$),
	($$enqueue('u', unique_scope => 'started')$$),
	($$enqueue_unique('u')$$),
	($$enqueue_unique('u', unique_key => NULL)$$),
	($$enqueue_unique('u', unique_key => '')$$),
	($$enqueue_unique(NULL, unique_key => 'k')$$),
	($$enqueue_unique('', unique_key => 'k')$$),
	($$enqueue_unique('u', unique_key => 'k', unique_for => '0')$$),
	($$enqueue_unique('u', unique_key => 'k', unique_for => '-1 s')$$),
	($$enqueue_unique('u', unique_key => 'k', unique_for => '300000 years')$$),
	($$enqueue_unique('u', unique_key => 'k', unique_for => '1 h', unique_scope => 'waiting')$$),
	($$enqueue_unique('u', unique_key => 'k', on_conflict => 'none')$$),
	($$enqueue_unique('u', unique_key => 'k', run_at => now(), delay => '1 s')$$)
) v(command);
DO $$
DECLARE
	hint text;
BEGIN
	PERFORM jobqueue.enqueue('u', on_conflict => 'ignore');
EXCEPTION WHEN invalid_parameter_value THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', hint;
END $$;
-- keys are text: of any kind, and at the limit
SELECT count(*), count(DISTINCT jobqueue.enqueue('u', unique_key => k))
	FROM unnest(ARRAY[' ', '  ', 'ä', 'Ä', 'a"; --', E'\n', repeat('ä', 512), repeat('ä', 511)]) k;

-- one snapshot for all: what came later cannot be seen, and the server says so. See also test/isolation
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT is_new FROM jobqueue.enqueue_unique('u', unique_key => 'ser');
SELECT is_new FROM jobqueue.enqueue_unique('u', '2', unique_key => 'ser', on_conflict => 'replace');
COMMIT;
BEGIN READ ONLY;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('u', unique_key => 'ser')$$);
ROLLBACK;

DROP ROLE u_limited;
SELECT jobqueue.unregister_handler('u-dies');
DROP FUNCTION u_fails;
DELETE FROM jobqueue.unique_keys;
DELETE FROM jobqueue.tasks;
