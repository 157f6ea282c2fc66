-- enqueue and enqueue_many: what they fill in, what they refuse
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- only the type: everything else has its default
SELECT jobqueue.enqueue('enq') AS id \gset
SELECT type, payload, status, created_at = updated_at AND created_at <= now() AND created_at > now() - interval '1 min'
	AS times,
	processed_at IS NULL AS no_processed_at, queue, priority, run_at IS NULL AS no_run_at, attempts, max_attempts,
		finished_at,
	lease_expires_at, claimed_by, last_error, last_sqlstate, result, unique_key, group_key,
	created_by = current_user AS by_me, metadata, timeout, pg_temp.leaf(id)
FROM jobqueue.tasks WHERE id = :id;

-- every argument
SELECT jobqueue.enqueue('enq', '{"a": [1, null, "x"]}', queue => 'enq', priority => 7::smallint, max_attempts => 3,
	run_at => now() - interval '1 h', metadata => '{"trace": 1}') AS id \gset
SELECT payload, queue, priority, max_attempts, metadata, status, run_at < now() FROM jobqueue.tasks WHERE id = :id;

-- a time ahead, or a delay: scheduled. A time that has come: pending.
BEGIN;
SELECT jobqueue.enqueue('enq', delay => '1 h') AS delayed, jobqueue.enqueue('enq', run_at => now() + interval '2 h') AS
	later,
	jobqueue.enqueue('enq', delay => '0') AS no_delay, jobqueue.enqueue('enq', run_at => now()) AS due \gset
SELECT status, run_at BETWEEN now() + interval '1 h' AND clock_timestamp() + interval '1 h' FROM jobqueue.tasks
	WHERE id = :delayed;
SELECT status, run_at = now() + interval '2 h' FROM jobqueue.tasks WHERE id = :later;
SELECT status, coalesce(run_at <= clock_timestamp(), true) FROM jobqueue.tasks WHERE id = :no_delay;
SELECT status, coalesce(run_at <= clock_timestamp(), true) FROM jobqueue.tasks WHERE id = :due;
COMMIT;

-- it belongs to the transaction
BEGIN;
SELECT jobqueue.enqueue('enq-rolled-back') > 0;
ROLLBACK;
BEGIN;
SELECT jobqueue.enqueue('enq-kept', '1') > 0;
SAVEPOINT s;
SELECT jobqueue.enqueue('enq-rolled-back') > 0;
ROLLBACK TO s;
SELECT jobqueue.enqueue('enq-kept', '2') > 0;
COMMIT;
SELECT type, payload FROM jobqueue.tasks WHERE type IN ('enq-rolled-back', 'enq-kept') ORDER BY id;
BEGIN READ ONLY;
\set VERBOSITY sqlstate
SELECT jobqueue.enqueue('enq');
\set VERBOSITY default
ROLLBACK;

-- once for each row, and as a lateral call
SELECT count(DISTINCT id) FROM (SELECT jobqueue.enqueue('enq-rows', to_jsonb(n)) AS id FROM generate_series(1, 50) n) e;
SELECT count(*), min(payload::int), max(payload::int) FROM jobqueue.tasks WHERE type = 'enq-rows';

-- the payload is stored as it is, whatever kind of jsonb it is; a large one too
SELECT jobqueue.enqueue('enq-payload', p) > 0 FROM (VALUES ('null'::jsonb), ('"text"'), ('[]'), ('true'), ('1e3'),
	('{"ä": "\"\\"}')) v(p);
SELECT payload FROM jobqueue.tasks WHERE type = 'enq-payload' ORDER BY id;
SELECT jobqueue.enqueue('enq-large', jsonb_build_object('s', repeat('x', 3000000))) AS id \gset
SELECT length(payload->>'s') FROM jobqueue.tasks WHERE id = :id;

-- names at the limit: 63 bytes, of whatever characters; a type has no limit but must not be empty
SELECT jobqueue.enqueue('enq', queue => repeat('q', 63)) AS id \gset
SELECT octet_length(queue) FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.enqueue('enq', queue => repeat('ä', 31)) AS id \gset
SELECT octet_length(queue), queue = repeat('ä', 31) FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.enqueue(E'enq \'quoted\' "\\" \t; --', queue => 'Enq "Mixed" Case; --') AS id \gset
SELECT type, queue FROM jobqueue.tasks WHERE id = :id;

-- what is refused
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$enqueue(NULL)$$),
	($$enqueue('')$$),
	($$enqueue('enq', 'no JSON')$$),
	($$enqueue('enq', '{"a": }')$$),
	($$enqueue('enq', queue => '')$$),
	($$enqueue('enq', queue => repeat('q', 64))$$),
	($$enqueue('enq', queue => repeat('ä', 32))$$),
	($$enqueue('enq', priority => 40000::smallint)$$),
	($$enqueue('enq', max_attempts => 0)$$),
	($$enqueue('enq', max_attempts => -1)$$),
	($$enqueue('enq', run_at => now(), delay => '1 s')$$),
	($$enqueue('enq', delay => '-1 s')$$),
	($$enqueue('enq', delay => '-1 month')$$),
	($$enqueue('enq', delay => '170000000 years')$$),
	($$enqueue('enq', run_at => 'infinity')$$),
	($$enqueue('enq', run_at => '-infinity')$$),
	($$enqueue()$$)
) v(command);

-- not cut off: a priority that is none
SELECT pg_temp.try(format('SELECT jobqueue.enqueue(''enq'', priority => %s)', p)) ~ '^(42883|22003|22023): '
	FROM unnest('{32768,-32769,2147483647}'::text[]) p;
SELECT pg_temp.try(format('SELECT jobqueue.enqueue_many(''enq'', ''{1}'', priority => %s)', p)) ~
	'^(42883|22003|22023): ' FROM unnest('{32768,-32769,2147483647}'::text[]) p;

-- enqueue_many: one task for each payload, ids in the order of the payloads
SELECT array_agg(id) AS ids FROM jobqueue.enqueue_many('many', ARRAY['3', '1', '2', '1']::jsonb[], queue => 'many',
	priority => 2::smallint, max_attempts => 5, metadata => '{"m": true}') WITH ORDINALITY e(id, n) \gset
SELECT payload, queue, priority, max_attempts, metadata, status, attempts, created_by = current_user
FROM jobqueue.tasks, unnest(:'ids'::bigint[]) WITH ORDINALITY e(want, n) WHERE id = want ORDER BY n;
SELECT n, a < b FROM (SELECT n, id AS a, lead(id) OVER (ORDER BY n) AS b FROM unnest(:'ids'::bigint[])
	WITH ORDINALITY e(id, n)) p ORDER BY n;
SELECT count(*) FROM jobqueue.enqueue_many('many-none', '{}');
SELECT count(*), count(DISTINCT id) FROM jobqueue.enqueue_many('many-large',
	(SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 10000) n)) id;
SELECT bool_and(to_jsonb(n) = payload) FROM (SELECT row_number() OVER (ORDER BY id) AS n,
	payload FROM jobqueue.tasks WHERE type = 'many-large') t;
BEGIN;
SELECT jobqueue.enqueue_many('many-later', '{1,2}', delay => '1 h') > 0;
SELECT status, run_at BETWEEN now() + interval '1 h' AND clock_timestamp() + interval '1 h' FROM jobqueue.tasks
	WHERE type = 'many-later';
ROLLBACK;
-- all or nothing
SELECT count(*) FROM jobqueue.enqueue_many('many-half', ARRAY['1', NULL, '3']::jsonb[]);
\echo :SQLSTATE
SELECT count(*) FROM jobqueue.tasks WHERE type = 'many-half';
-- called for its rows only in part, it still adds every task
SELECT count(*) FROM (SELECT * FROM jobqueue.enqueue_many('many-limit', '{1,2,3}') LIMIT 1) l;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'many-limit';

SELECT command, pg_temp.try('SELECT * FROM jobqueue.' || command) FROM (VALUES
	($$enqueue_many('many', NULL)$$),
	($$enqueue_many(NULL, '{1}')$$),
	($$enqueue_many('', '{1}')$$),
	($$enqueue_many('many', '{1,NULL}')$$),
	($$enqueue_many('many', '{no JSON}')$$),
	($$enqueue_many('many', '{1}', queue => '')$$),
	($$enqueue_many('many', '{1}', queue => repeat('q', 64))$$),
	($$enqueue_many('many', '{1}', max_attempts => 0)$$),
	($$enqueue_many('many', '{1}', run_at => now(), delay => '1 s')$$),
	($$enqueue_many('many', '{1}', delay => '-1 s')$$),
	($$enqueue_many('many', '{1}', run_at => 'infinity')$$),
	($$enqueue_many('', '{}')$$)
) v(command);

-- queue NULL: the handler's queue; a queue that is named wins
CREATE FUNCTION enq_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SET client_min_messages = warning;
SELECT jobqueue.pause_queue('enq-handlers') IS NOT NULL;
SELECT jobqueue.register_handler('enq-handled', 'enq_handler(jsonb)', queue => 'enq-handlers');
RESET client_min_messages;
SELECT jobqueue.enqueue('enq-handled') AS a, jobqueue.enqueue('enq-handled', queue => 'default') AS b,
	jobqueue.enqueue('enq-unhandled') AS c, jobqueue.enqueue_many('enq-handled', '{1}') AS d \gset
SELECT queue FROM jobqueue.tasks WHERE id IN (:a, :b, :c, :d) ORDER BY id;
SELECT jobqueue.unregister_handler('enq-handled');
SELECT jobqueue.resume_queue('enq-handlers');
SELECT jobqueue.enqueue('enq-handled') AS e \gset
SELECT queue FROM jobqueue.tasks WHERE id = :e;

-- no matter who calls, the role is the current one, and nothing that the caller defines is used in its place
CREATE ROLE enq_producer;
SELECT jobqueue.grant_access('enq_producer', 'producer');
CREATE SCHEMA enq_evil;
CREATE FUNCTION enq_evil.now() RETURNS timestamptz LANGUAGE sql AS $$SELECT timestamptz 'epoch'$$;
CREATE FUNCTION enq_evil.evil(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'an operator was hijacked';
	END$$;
CREATE OPERATOR enq_evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = enq_evil.evil);
CREATE OPERATOR enq_evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = enq_evil.evil);
GRANT USAGE ON SCHEMA enq_evil TO PUBLIC;
SET ROLE enq_producer;
SET search_path = enq_evil, pg_catalog;
SELECT jobqueue.enqueue('enq-by') AS id \gset
SELECT jobqueue.enqueue_many('enq-by', '{1}') AS id2 \gset
RESET search_path;
RESET ROLE;
SELECT created_by, created_at > now() - interval '1 min' FROM jobqueue.tasks
	WHERE id OPERATOR(pg_catalog.=) ANY (ARRAY[:id, :id2]);

SELECT jobqueue.revoke_access('enq_producer', 'producer');
DROP ROLE enq_producer;
SET client_min_messages = warning;
DROP SCHEMA enq_evil CASCADE;
DROP FUNCTION enq_handler;
DELETE FROM jobqueue.tasks;
