-- What a handler says of its own task: snooze, discard, set_progress; and what outside workers say of theirs
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- elsewhere: refused, with a hint
SELECT jobqueue.snooze('1 s');
SELECT jobqueue.discard('nothing');
SELECT jobqueue.set_progress(0.5);
SELECT jobqueue.current_task() IS NULL;
SET client_min_messages = warning;

CREATE TABLE i_effects (what text, attempt integer DEFAULT (jobqueue.current_task()).attempts);
CREATE FUNCTION pg_temp.wait_of(task_id bigint) RETURNS interval LANGUAGE sql AS $$
	SELECT ceil(extract(epoch FROM run_at - updated_at) / 60) * interval '1 minute' FROM jobqueue.tasks
		WHERE id = task_id AND status = 'scheduled'
$$;
CREATE FUNCTION pg_temp.settled(task_id bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT status NOT IN ('pending', 'processing') FROM jobqueue.tasks WHERE id = task_id
$$;

-- snooze: what the handler did is kept, it runs again later, and that costs no attempt
CREATE FUNCTION i_snooze(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.i_effects VALUES ('snooze');
	IF task.attempts < (task.payload->>'until')::integer THEN
		PERFORM jobqueue.snooze((task.payload->>'delay')::interval);
	END IF;
	RETURN 'attempt ' || task.attempts;
END $$;
SELECT jobqueue.register_handler('i-snooze', 'i_snooze(jobqueue.tasks)', max_attempts => 1);
SELECT jobqueue.enqueue('i-snooze', '{"until": 4, "delay": "0"}') AS id \gset
SELECT status, attempts, max_attempts, result, last_error, failures FROM jobqueue.wait_for(:id, '60 s');
SELECT * FROM i_effects ORDER BY attempt;
TRUNCATE i_effects;
SELECT jobqueue.enqueue('i-snooze', '{"until": 2, "delay": "90 minutes"}') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.wait_of(:id), pg_temp.show(:id);
SELECT * FROM i_effects;
SELECT jobqueue.retry(:id);
SELECT status, attempts, max_attempts, result FROM jobqueue.wait_for(:id, '60 s');
TRUNCATE i_effects;

-- said in a part of the handler that is rolled back: not said. Each by its name in the payload.
CREATE FUNCTION i_parts(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.i_effects VALUES (task.payload->>0);
	IF task.attempts > 1 THEN
		RETURN 'again';
	END IF;
	CASE task.payload->>0
	WHEN 'block rolled back' THEN
		BEGIN
			PERFORM jobqueue.snooze('1 hour');
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'block in a block rolled back' THEN
		BEGIN
			BEGIN
				PERFORM jobqueue.snooze('1 hour');
			EXCEPTION WHEN division_by_zero THEN
			END;
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'block committed' THEN
		BEGIN
			PERFORM jobqueue.snooze('1 hour');
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'later block rolled back' THEN
		PERFORM jobqueue.snooze('1 hour');
		BEGIN
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'second word rolled back' THEN
		PERFORM jobqueue.snooze('1 hour');
		BEGIN
			PERFORM jobqueue.snooze('2 hours');
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'last word counts' THEN
		PERFORM jobqueue.snooze('1 hour');
		PERFORM jobqueue.snooze('2 hours');
	WHEN 'raises' THEN
		PERFORM jobqueue.snooze('1 hour');
		RAISE EXCEPTION 'no luck';
	WHEN 'discards' THEN
		PERFORM jobqueue.snooze('1 hour');
		PERFORM jobqueue.discard('no use');
	WHEN 'negative' THEN
		PERFORM jobqueue.snooze('-1 s');
	WHEN 'null' THEN
		PERFORM jobqueue.snooze(NULL);
	WHEN 'endless' THEN
		PERFORM jobqueue.snooze('178000000 years');
	END CASE;
	RETURN 'done';
END $$;
SELECT jobqueue.register_handler('i-parts', 'i_parts(jobqueue.tasks)', backoff => 'fixed', first_delay => '10 hours',
	max_delay => '10 hours', jitter => 0);
SELECT array_agg(jobqueue.enqueue('i-parts', to_jsonb(ARRAY[c])) ORDER BY n) AS ids
	FROM unnest(ARRAY['block rolled back', 'block in a block rolled back', 'block committed', 'later block rolled back',
	'second word rolled back', 'last word counts', 'raises', 'discards', 'negative', 'null', 'endless'])
		WITH ORDINALITY u(c, n) \gset
CALL pg_temp.wait_until(format('(SELECT bool_and(pg_temp.settled(id)) FROM unnest(%L::bigint[]) id)', :'ids'));
SELECT payload->>0, status, pg_temp.wait_of(id), attempts, max_attempts,
	coalesce(result::text, last_sqlstate || ': ' || last_error) FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
SELECT what FROM i_effects ORDER BY what;
TRUNCATE i_effects;

-- a procedure that commits: what it said before, it has said; what it rolls back, not
CREATE PROCEDURE i_commits(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	IF (jobqueue.current_task()).attempts = 1 THEN
		INSERT INTO public.i_effects VALUES ('committed');
		PERFORM jobqueue.snooze('1 hour');
		COMMIT;
		INSERT INTO public.i_effects VALUES ('committed, too');
	END IF;
END $$;
CREATE PROCEDURE i_rolls_back(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.i_effects VALUES ('rolled back');
	PERFORM jobqueue.snooze('1 hour');
	ROLLBACK;
	INSERT INTO public.i_effects VALUES ('not rolled back');
END $$;
SELECT jobqueue.register_handler('i-commits', 'i_commits(jsonb)'), jobqueue.register_handler('i-rolls-back',
	'i_rolls_back(jsonb)');
SELECT jobqueue.enqueue('i-commits') AS a, jobqueue.enqueue('i-rolls-back') AS b \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s) AND pg_temp.settled(%s)', :a, :b));
SELECT type, status, pg_temp.wait_of(id), attempts, last_error FROM jobqueue.tasks WHERE id IN (:a, :b) ORDER BY id;
SELECT what FROM i_effects ORDER BY what;
TRUNCATE i_effects;
DELETE FROM jobqueue.tasks;

-- discard: failed at once, whatever attempts are left, and nothing that the handler did remains; the handler may change
-- its mind
CREATE FUNCTION i_discard(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.i_effects VALUES ('discard');
	IF task.payload ? 'catch' THEN
		BEGIN
			PERFORM jobqueue.discard(task.payload->>'reason');
		EXCEPTION WHEN OTHERS THEN
			RETURN format('%s: %s', sqlstate, sqlerrm);
		END;
	END IF;
	PERFORM jobqueue.discard(task.payload->>'reason');
	RETURN 'not reached';
END $$;
SELECT jobqueue.register_handler('i-discard', 'i_discard(jobqueue.tasks)', max_attempts => 10,
	dead_letter_queue => 'i-dead');
SELECT jobqueue.enqueue('i-discard', '{"reason": "no such customer"}') AS a,
	jobqueue.enqueue('i-discard', '{"reason": ""}') AS b, jobqueue.enqueue('i-discard', '{"reason": "%s %d\nü"}') AS c,
	jobqueue.enqueue('i-discard', '{"reason": "caught", "catch": true}') AS d \gset
SELECT w.status, w.queue, w.attempts, w.max_attempts, w.last_sqlstate, w.last_error, w.result,
	jsonb_array_length(w.failures) FROM unnest(ARRAY[:a, :b, :c, :d]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '60 s') w ORDER BY n;
SELECT pg_temp.leaf(:a), failures->0->>'sqlstate', failures->0->>'message',
	failures->0->>'hint' FROM jobqueue.tasks WHERE id = :a;
SELECT * FROM i_effects;
-- no reason: an error like another
SELECT jobqueue.enqueue('i-discard', '{}', max_attempts => 1) AS id \gset
CALL pg_temp.wait_until(format('(SELECT status = ''failed'' OR queue = ''i-dead'' FROM jobqueue.tasks WHERE id = %s)',
	:id));
SELECT status, queue, last_sqlstate, last_error FROM jobqueue.tasks WHERE id = :id;
TRUNCATE i_effects;
DELETE FROM jobqueue.tasks;

-- set_progress: seen at once, though nothing is committed yet. The handler goes on when we unlock.
CREATE FUNCTION i_progress(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.i_effects VALUES ('progress');
	IF task.payload ? 'silent' THEN
		PERFORM pg_advisory_xact_lock(4712);
		RETURN;
	END IF;
	PERFORM jobqueue.set_progress(0.25, 'a quarter');
	PERFORM pg_advisory_xact_lock(4711);
	BEGIN
		PERFORM jobqueue.set_progress(1);
		PERFORM 1 / 0;
	EXCEPTION WHEN division_by_zero THEN
	END;
	PERFORM pg_advisory_xact_lock(4712);
	PERFORM jobqueue.set_progress(0, repeat('ä', 1000));
	PERFORM pg_advisory_xact_lock(4713);
END $$;
SELECT jobqueue.register_handler('i-progress', 'i_progress(jobqueue.tasks)');
SELECT pg_advisory_lock(4711), pg_advisory_lock(4712), pg_advisory_lock(4713);
SELECT jobqueue.enqueue('i-progress', queue => 'i-queue') AS id \gset
CALL pg_temp.wait_until(format('EXISTS (SELECT 1 FROM jobqueue.running_tasks WHERE id = %s AND progress = 0.25)', :id));
SELECT type, queue, attempt, processed_at BETWEEN now() - interval '10 minutes' AND now(), claimed_by IS NOT NULL,
	lease_expires_at, pid = ANY (SELECT a.pid FROM pg_stat_activity a WHERE wait_event = 'advisory'),
	progress, progress_message FROM jobqueue.running_tasks;
SELECT role = current_user, state, task_id = :id, task_type, queue, attempt, progress,
	progress_message FROM jobqueue.worker_status WHERE task_id = :id;
-- not in the task: that is for outside workers
SELECT status, progress, progress_message FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM i_effects;
-- a claim of a worker in the server is not for others to speak for
SELECT jobqueue.set_progress(:id, 1, 0.9), jobqueue.snooze(:id, 1, '1 s'), jobqueue.discard(:id, 1, 'no'),
	jobqueue.fail(:id, 1, 'no'), jobqueue.release(:id, 1), jobqueue.complete(:id, 1), jobqueue.extend_lease(:id, 1);
SELECT pg_advisory_unlock(4711);
-- no message; it does not matter that the handler rolled that part back
CALL pg_temp.wait_until(format('EXISTS (SELECT 1 FROM jobqueue.running_tasks WHERE id = %s AND progress = 1)', :id));
SELECT progress, progress_message FROM jobqueue.running_tasks;
SELECT pg_advisory_unlock(4712);
-- a long one is cut where a character ends
CALL pg_temp.wait_until(format('EXISTS (SELECT 1 FROM jobqueue.running_tasks WHERE id = %s AND progress = 0)', :id));
SELECT progress, progress_message ~ '^ä+$', octet_length(progress_message) BETWEEN 100 AND 1000
	FROM jobqueue.running_tasks;
SELECT pg_advisory_unlock(4713);
SELECT status, progress, progress_message FROM jobqueue.wait_for(:id, '60 s');
SELECT count(*) FROM jobqueue.running_tasks;
SELECT count(*) FROM jobqueue.worker_status WHERE progress IS NOT NULL OR progress_message IS NOT NULL;
-- the next task on the worker has made none
SELECT pg_advisory_lock(4712);
SELECT jobqueue.enqueue('i-progress', '{"silent": true}') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.running_tasks r JOIN pg_stat_activity a USING (pid)
	WHERE wait_event = 'advisory')$$);
SELECT id = :id, progress, progress_message FROM jobqueue.running_tasks;
SELECT pg_advisory_unlock(4712);
SELECT status FROM jobqueue.wait_for(:id, '60 s');
-- what it refuses
CREATE FUNCTION i_fraction(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM jobqueue.set_progress((payload->>0)::real);
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	RETURN format('%s: %s', sqlstate, sqlerrm);
END $$;
SELECT jobqueue.register_handler('i-fraction', 'i_fraction(jsonb)');
SELECT array_agg(jobqueue.enqueue('i-fraction', to_jsonb(ARRAY[f])) ORDER BY n) AS ids
	FROM unnest(ARRAY['0', '1', '-0', '1e-30', '-0.01', '1.01', '100', 'NaN', 'Infinity', '-Infinity', NULL])
	WITH ORDINALITY u(f, n) \gset
SELECT w.payload->>0, w.result FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '60 s') w ORDER BY n;
DELETE FROM jobqueue.tasks;

-- the same, outside: by the claim
SELECT jobqueue.enqueue('i-out', queue => 'i-out', max_attempts => 1) AS id \gset
SELECT jobqueue.set_progress(:id, 0, 0.5), jobqueue.snooze(:id, 0, '1 s'), jobqueue.discard(:id, 0, 'no');
SELECT attempts, progress FROM jobqueue.claim('i-out', claimed_by => 'me');
SELECT jobqueue.set_progress(:id, 2, 0.5), jobqueue.snooze(:id, 2, '1 s'), jobqueue.discard(:id, 2, 'no'),
	jobqueue.set_progress(-1, 1, 0.5), jobqueue.snooze(-1, 1, '1 s'), jobqueue.discard(-1, 1, 'no');
SELECT jobqueue.set_progress(:id, 1, 0.5, 'half');
SELECT type, queue, attempt, claimed_by, lease_expires_at > now(), pid, progress,
	progress_message FROM jobqueue.running_tasks;
SELECT progress, progress_message FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.set_progress(:id, 1, 0.75);
SELECT progress, progress_message FROM jobqueue.tasks WHERE id = :id;
-- the lease does not depend on it
SELECT lease_expires_at AS before FROM jobqueue.tasks WHERE id = :id \gset
SELECT jobqueue.set_progress(:id, 1, 0.8, 'more');
SELECT lease_expires_at = :'before' FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.snooze(:id, 1, '90 minutes');
SELECT pg_temp.wait_of(:id), pg_temp.show(:id);
SELECT jobqueue.set_progress(:id, 1, 0.5), jobqueue.snooze(:id, 1, '1 s'), jobqueue.discard(:id, 1, 'no');
SELECT jobqueue.retry(:id);
-- another claim begins at nothing
SELECT attempts, max_attempts, progress, progress_message FROM jobqueue.claim('i-out');
SELECT jobqueue.discard(:id, 2, 'no such customer');
SELECT pg_temp.show(:id);
SELECT jsonb_array_length(failures), failures->0->>'sqlstate', failures->0->>'message' FROM jobqueue.tasks WHERE id =
	:id;
SELECT jobqueue.set_progress(:id, 2, 0.5), jobqueue.snooze(:id, 2, '1 s'), jobqueue.discard(:id, 2, 'no');
-- at once
SELECT jobqueue.enqueue('i-out', queue => 'i-out', max_attempts => 1) AS id \gset
SELECT jobqueue.snooze(id, attempts, '0') FROM jobqueue.claim('i-out');
CALL pg_temp.wait_until(format('(SELECT status FROM jobqueue.tasks WHERE id = %s) = ''pending''', :id));
SELECT attempts, max_attempts FROM jobqueue.claim('i-out');
-- a claim by hand has no lease and no number to be told by; but its row says all that is needed
SELECT jobqueue.complete(:id, 2);
SELECT jobqueue.enqueue('i-out', queue => 'i-out') AS id \gset
UPDATE jobqueue.tasks SET status = 'processing' WHERE id = :id;
SELECT id = :id, attempt, lease_expires_at, pid, progress FROM jobqueue.running_tasks;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP TABLE i_effects;
DROP FUNCTION i_snooze, i_parts, i_discard, i_progress, i_fraction;
DROP PROCEDURE i_commits, i_rolls_back;
DELETE FROM jobqueue.tasks;
