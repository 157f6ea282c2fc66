\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE EXTENSION jobqueue;

CREATE FUNCTION nothing(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE TABLE latencies (seconds numeric);
CREATE FUNCTION latency(payload jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO latencies VALUES (extract(epoch FROM clock_timestamp() - (payload->>'at')::timestamptz))
$$;
SELECT jobqueue.register_handler('nothing', 'nothing(jsonb)');
SELECT jobqueue.register_handler('latency', 'latency(jsonb)');

CREATE PROCEDURE wait_until_done() LANGUAGE plpgsql AS $$
BEGIN
	WHILE EXISTS (SELECT FROM jobqueue.tasks WHERE status IN ('pending', 'scheduled', 'processing')) LOOP
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

SELECT jobqueue.pause_queue('default') \gset
SELECT clock_timestamp() AS start \gset
SELECT count(*) AS n FROM jobqueue.enqueue_many('nothing', array_fill('{}'::jsonb, ARRAY[:tasks])) \gset
SELECT format('enqueue_many: %s tasks/s', round(:tasks / extract(epoch FROM clock_timestamp() - :'start'::timestamptz)));

VACUUM ANALYZE;
CHECKPOINT;
SELECT clock_timestamp() AS start \gset
SELECT jobqueue.resume_queue('default') \gset
CALL wait_until_done();
SELECT format('run: %s tasks/s', round(:tasks / extract(epoch FROM clock_timestamp() - :'start'::timestamptz)));
