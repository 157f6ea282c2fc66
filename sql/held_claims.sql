-- Claims that a backend completes without a statement: it knows where their rows are. Whatever happens to a row in
-- between, complete() says what it would say otherwise. Without history, for that is where it is done.
ALTER SYSTEM SET jobqueue.completed_retention = 0;
SELECT pg_reload_conf();
\c -
\pset format unaligned
\pset tuples_only on
SHOW jobqueue.completed_retention;

-- as for any claim: each once, in the order given, and nothing is left
SELECT count(jobqueue.enqueue('held', to_jsonb(n), unique_key => 'k' || n, unique_scope => 'waiting'))
	FROM generate_series(1, 6) n;
CREATE TEMP TABLE c AS SELECT * FROM jobqueue.claim(max_tasks => 6, claimed_by => 'me', lease => '1 h');
SELECT payload, status, attempts, max_attempts, claimed_by, unique_scope, processed_at = updated_at,
	lease_expires_at > now() + '50 min', progress, queue, type, unique_key FROM c ORDER BY id;
SELECT count(*) FROM c JOIN jobqueue.tasks t USING (id) WHERE c.* IS NOT DISTINCT FROM t.*;
SELECT count(*) FROM jobqueue.complete_many((SELECT array_agg(id) FROM c WHERE payload < '3'),
	(SELECT array_agg(attempts) FROM c WHERE payload < '3'));
SELECT count(*) FROM jobqueue.complete_many((SELECT array_agg(id) FROM c WHERE payload < '4'),
	(SELECT array_agg(attempts) FROM c WHERE payload < '4'));
SELECT count(*) FROM jobqueue.complete_many((SELECT array_agg(id) || array_agg(id) FROM c WHERE payload = '4'),
	(SELECT array_agg(attempts) || array_agg(attempts) FROM c WHERE payload = '4'));
SELECT jobqueue.complete(id, attempts + 1) FROM c WHERE payload = '5';
SELECT jobqueue.complete(id, attempts) FROM c WHERE payload = '5';
SELECT jobqueue.complete(id, attempts) FROM c WHERE payload = '6';
SELECT count(*) FROM jobqueue.tasks WHERE type = 'held';
DROP TABLE c;

-- between claim and completion: a longer lease, progress, a write by hand, given back and claimed again, cancelled,
-- a lease that ended and was taken back, a table that was rewritten
SELECT count(jobqueue.enqueue('held', to_jsonb(n))) FROM generate_series(1, 9) n;
CREATE TEMP TABLE c AS SELECT * FROM jobqueue.claim(max_tasks => 9, lease => '1 h');
SELECT jobqueue.extend_lease(id, attempts, '2 h') FROM c WHERE payload = '1';
SELECT jobqueue.set_progress(id, attempts, 0.5) FROM c WHERE payload = '2';
UPDATE jobqueue.tasks SET metadata = '{}' WHERE id = (SELECT id FROM c WHERE payload = '3');
SELECT jobqueue.release(id, attempts) FROM c WHERE payload = '4';
SELECT payload, attempts FROM jobqueue.claim();
SELECT jobqueue.cancel(id) FROM c WHERE payload = '5';
UPDATE jobqueue.tasks SET lease_expires_at = NULL WHERE id = (SELECT id FROM c WHERE payload = '6');
UPDATE jobqueue.tasks SET status = 'pending', lease_expires_at = NULL WHERE id = (SELECT id FROM c WHERE payload = '7');
DELETE FROM jobqueue.tasks WHERE id = (SELECT id FROM c WHERE payload = '8');
SELECT payload, jobqueue.complete(id, attempts) FROM c WHERE payload <> '9' ORDER BY id;
SELECT payload, status, attempts FROM jobqueue.tasks WHERE type = 'held' ORDER BY id;
SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks WHERE type = 'held' AND payload = '4';
VACUUM FULL jobqueue.tasks_live;
SELECT jobqueue.complete(id, attempts) FROM c WHERE payload = '9';
DELETE FROM jobqueue.tasks WHERE type = 'held';
DROP TABLE c;

-- a table that has become shorter
SELECT count(jobqueue.enqueue('held', to_jsonb(repeat(md5(n::text), 60)))) FROM generate_series(1, 200) n;
CREATE TEMP TABLE c AS SELECT id, attempts FROM jobqueue.claim(max_tasks => 200, lease => '1 h');
DELETE FROM jobqueue.tasks WHERE id IN (SELECT id FROM c ORDER BY id OFFSET 1);
VACUUM FULL jobqueue.tasks_live;
SELECT count(*) FROM jobqueue.complete_many((SELECT array_agg(id ORDER BY id) FROM c),
	(SELECT array_agg(attempts ORDER BY id) FROM c));
DROP TABLE c;

-- what is rolled back is as it was: the claim, or the completion
SELECT jobqueue.enqueue('held', '1') > 0;
BEGIN;
SAVEPOINT s;
SELECT id, attempts FROM jobqueue.claim(lease => '1 h') \gset
ROLLBACK TO s;
SELECT jobqueue.complete(:id, :attempts);
SELECT id, attempts FROM jobqueue.claim(lease => '1 h') \gset
SAVEPOINT s;
SELECT jobqueue.complete(:id, :attempts);
SELECT count(*) FROM jobqueue.tasks WHERE type = 'held';
ROLLBACK TO s;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'held';
SELECT jobqueue.complete(:id, :attempts);
SELECT jobqueue.complete(:id, :attempts);
COMMIT;

-- in one transaction with a snapshot of its own
SELECT jobqueue.enqueue('held', '2') > 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT id, attempts FROM jobqueue.claim(lease => '1 h') \gset
SELECT jobqueue.complete(:id, :attempts);
COMMIT;

-- others may want to see it: triggers, checks, columns, row security
CREATE TABLE held_log (what text, id bigint, status text);
CREATE FUNCTION held_log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.held_log VALUES (TG_OP, OLD.id, OLD.status);
	RETURN NULL;
END $$;
CREATE TRIGGER held_log AFTER UPDATE OR DELETE ON jobqueue.tasks_live FOR EACH ROW EXECUTE FUNCTION held_log();
SELECT jobqueue.enqueue('held', '3') > 0;
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim(lease => '1 h');
SELECT what, status FROM held_log;
DROP TRIGGER held_log ON jobqueue.tasks_live;
DROP FUNCTION held_log();
DROP TABLE held_log;
ALTER TABLE jobqueue.tasks ADD CONSTRAINT once CHECK (attempts < 1);
SELECT jobqueue.enqueue('held', '4') > 0;
\set VERBOSITY sqlstate
SELECT count(*) FROM jobqueue.claim(lease => '1 h');
\set VERBOSITY default
ALTER TABLE jobqueue.tasks DROP CONSTRAINT once;
CREATE INDEX held_index ON jobqueue.tasks_live (claimed_by, (payload #>> '{}')) WHERE status = 'processing';
SET enable_seqscan = off;
SELECT id, attempts FROM jobqueue.claim(lease => '1 h', claimed_by => 'indexed') \gset
SELECT count(*) FROM jobqueue.tasks_live WHERE claimed_by = 'indexed' AND payload #>> '{}' = '4'
	AND status = 'processing';
SELECT jobqueue.complete(:id, :attempts);
RESET enable_seqscan;
DROP INDEX jobqueue.held_index;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'held';

-- a large payload stays where it is, and goes with its task
INSERT INTO jobqueue.tasks (type, payload) SELECT 'held', jsonb_agg(md5(n::text)) FROM generate_series(1, 1000) n;
SELECT id, attempts, jsonb_array_length(payload) FROM jobqueue.claim(lease => '1 h') \gset
SELECT :jsonb_array_length, jsonb_array_length(payload) FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.complete(:id, :attempts);
SELECT oid::regclass AS toast FROM pg_class WHERE oid = (SELECT reltoastrelid FROM pg_class WHERE oid =
	'jobqueue.tasks_live'::regclass) \gset
SELECT count(*) FROM :toast;

-- in a transaction that only reads
INSERT INTO jobqueue.tasks (type) VALUES ('held');
SELECT id, attempts FROM jobqueue.claim(lease => '1 h') \gset
BEGIN READ ONLY;
\set VERBOSITY sqlstate
SELECT jobqueue.complete(:id, :attempts);
\set VERBOSITY default
ROLLBACK;
SELECT jobqueue.complete(:id, :attempts);

ALTER SYSTEM RESET jobqueue.completed_retention;
SELECT pg_reload_conf();
DELETE FROM jobqueue.tasks;
