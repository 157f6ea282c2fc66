-- complete_and_claim: the last tasks are done, the next ones are taken, in one call
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- a worker's loop: nothing to complete in the first call, nothing to claim in the last
SELECT count(*) FROM jobqueue.complete_and_claim('{}', '{}');
SELECT count(*) FROM jobqueue.enqueue_many('cc', '{1,2,3,4,5}', queue => 'cc');
CREATE TEMPORARY TABLE batches (batch int, id bigint, attempts int, payload jsonb);
DO $$
DECLARE
	ids bigint[] := '{}';
	attempts int[] := '{}';
	results jsonb[];
BEGIN
	FOR batch IN 1 .. 10 LOOP
		WITH claimed AS (
			INSERT INTO batches SELECT batch, t.id, t.attempts, t.payload FROM jobqueue.complete_and_claim(ids,
				attempts, results, 'cc', 2) t RETURNING *
		) SELECT array_agg(c.id), array_agg(c.attempts), array_agg(to_jsonb(format('done %s', c.payload))) INTO ids,
			attempts, results FROM claimed c;
		COMMIT;
		EXIT WHEN ids IS NULL;
	END LOOP;
END $$;
SELECT batch, b.attempts, b.payload, t.status, t.result FROM batches b LEFT JOIN jobqueue.tasks t USING (id)
	ORDER BY batch, b.payload;

-- the arguments of both: what a claim changes, by default and when told
SELECT jobqueue.enqueue('cc') AS id \gset
BEGIN;
SELECT id = :id, status, attempts, claimed_by LIKE '%' || pg_backend_pid() || '%',
	lease_expires_at BETWEEN now() + interval '5 min' AND clock_timestamp() + interval '5 min'
FROM jobqueue.complete_and_claim('{}', '{}');
COMMIT;
SELECT jobqueue.enqueue('cc-a', queue => 'cc') + jobqueue.enqueue('cc-b', queue => 'cc') > 0;
BEGIN;
SELECT type, claimed_by, lease_expires_at BETWEEN now() + interval '1 h' AND clock_timestamp() + interval '1 h'
FROM jobqueue.complete_and_claim(ARRAY[:id], '{1}', '{"\"yes\""}', NULL, 10, '1 h', '{cc-b}', 'worker 7');
COMMIT;
SELECT pg_temp.show(:id);
SELECT type FROM jobqueue.complete_and_claim('{}', '{}', queue => 'cc', max_tasks => 10);
-- by name, without results
SELECT array_agg(id) AS ids, array_agg(attempts) AS attempts FROM jobqueue.tasks WHERE status = 'processing' \gset
SELECT count(*) FROM jobqueue.complete_and_claim(attempts => :'attempts', ids => :'ids');
SELECT status, result, count(*) FROM jobqueue.tasks WHERE id = ANY (:'ids') GROUP BY 1, 2;

-- claims that are no longer the caller's, or never were, are skipped; the others are completed
SELECT array_agg(id ORDER BY id) AS ids FROM jobqueue.enqueue_many('cc', '{1,2,3,4}', queue => 'cc') id \gset
SELECT count(*) FROM jobqueue.claim('cc', 4);
SELECT jobqueue.release((:'ids'::bigint[])[2], 1);
SELECT jobqueue.cancel((:'ids'::bigint[])[3]);
SELECT array_position(:'ids'::bigint[], id), attempts FROM jobqueue.complete_and_claim(:'ids' || '{-1}'::bigint[],
	'{1,1,1,2,1}', '{1,2,3,4,5}', 'cc', 10);
SELECT array_position(:'ids'::bigint[], id), status, attempts, result FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER
	BY id;
-- named twice does no harm
SELECT count(*) FROM jobqueue.complete_and_claim((:'ids'::bigint[])[2:2] || (:'ids'::bigint[])[2:2] ||
	(:'ids'::bigint[])[4:4], '{2,2,1}', NULL, 'cc');
SELECT array_position(:'ids'::bigint[], id), status, attempts, result FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER
	BY id;
-- an expired lease is still valid until the task is taken back; this call does not take it back
SELECT jobqueue.enqueue('cc', queue => 'cc') AS id \gset
BEGIN;
SELECT attempts FROM jobqueue.claim('cc', lease => '1 microsecond');
SELECT count(*) FROM jobqueue.complete_and_claim(ARRAY[:id], '{1}', NULL, 'cc');
SELECT pg_temp.show(:id);
COMMIT;

-- rolled back, neither has happened
SELECT array_agg(id ORDER BY id) AS ids FROM jobqueue.enqueue_many('cc', '{1,2}', queue => 'cc') id \gset
SELECT payload FROM jobqueue.claim('cc');
BEGIN;
SELECT payload FROM jobqueue.complete_and_claim((:'ids'::bigint[])[1:1], '{1}', NULL, 'cc');
ROLLBACK;
SELECT payload, status, attempts FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
-- an error of the claim's arguments completes nothing
SELECT pg_temp.try(format('SELECT count(*) FROM jobqueue.complete_and_claim(%L, %L, NULL, %L, 0)',
	(:'ids'::bigint[])[1:1], '{1}', 'cc'));
SELECT payload, status, attempts FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
SELECT payload, attempts FROM jobqueue.complete_and_claim((:'ids'::bigint[])[1:1], '{1}', NULL, 'cc');
-- a paused queue: completes, claims nothing
SELECT jobqueue.enqueue('cc', queue => 'cc') > 0;
SELECT jobqueue.pause_queue('cc');
SELECT count(*) FROM jobqueue.complete_and_claim((:'ids'::bigint[])[2:2], '{1}', NULL, 'cc');
SELECT jobqueue.resume_queue('cc');
SELECT status FROM jobqueue.tasks WHERE id = (:'ids'::bigint[])[2];

-- a claim of a worker in the server cannot be completed from outside
BEGIN;
SELECT jobqueue.enqueue('cc', queue => 'cc') AS id \gset
UPDATE jobqueue.tasks SET status = 'processing', attempts = 1, lease_expires_at = 'infinity' WHERE id = :id;
SELECT count(*) FROM jobqueue.complete_and_claim(ARRAY[:id], '{1}', NULL, 'cc');
SELECT status FROM jobqueue.tasks WHERE id = :id;
ROLLBACK;

-- what is refused
SELECT command, pg_temp.try('SELECT id FROM jobqueue.complete_and_claim(' || command || ')') FROM (VALUES
	($$NULL, '{1}'$$),
	($$'{1}', NULL$$),
	($$'{1,2}', '{1}'$$),
	($$'{1}', '{1,2}'$$),
	($$'{1}', '{1}', '{}'$$),
	($$'{NULL}', '{1}'$$),
	($$'{1}', '{NULL}'$$),
	($$'{}', '{}', max_tasks => NULL$$),
	($$'{}', '{}', max_tasks => 0$$),
	($$'{}', '{}', max_tasks => 100001$$),
	($$'{}', '{}', lease => NULL$$),
	($$'{}', '{}', lease => '0'$$),
	($$'{}', '{}', lease => '-1 s'$$),
	($$'{}', '{}', lease => '170000000 years'$$),
	($$'{}', '{}', queue => ''$$),
	($$'{}', '{}', queue => repeat('q', 64)$$),
	($$'{}', '{}', types => '{NULL}'$$),
	($$'{}', '{}', types => ARRAY(SELECT n::text FROM generate_series(1, 1001) n)$$)
) v(command);
BEGIN READ ONLY;
SELECT pg_temp.try($$SELECT id FROM jobqueue.complete_and_claim('{}', '{}')$$) ~ '^25006: ';
ROLLBACK;
DELETE FROM jobqueue.tasks;
