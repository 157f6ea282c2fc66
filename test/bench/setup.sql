-- What the benchmark measures jobqueue with: handlers that do nothing, and functions that tell cheaply how far the
-- workers are. In an empty database, and all queues are paused. The harness splits at semicolons, so none is in a
-- comment or string.
CREATE EXTENSION jobqueue;
CREATE SCHEMA bench;
DO $$ BEGIN
	IF to_regrole('bench_worker') IS NULL THEN
		CREATE ROLE bench_worker;
	END IF;
END $$;
GRANT USAGE ON SCHEMA bench, jobqueue TO bench_worker;

CREATE FUNCTION bench.nothing(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION bench.nothing_batch(payloads jsonb[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION bench.pause(payload jsonb) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN PERFORM pg_sleep((payload->>'seconds')::float8); END $$;

CREATE TABLE bench.started (i integer NOT NULL, at timestamptz NOT NULL);
GRANT INSERT ON bench.started TO bench_worker;
CREATE FUNCTION bench.start(payload jsonb) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO bench.started VALUES ((payload->>'i')::integer, clock_timestamp()); END $$;

CREATE TABLE bench.accounts (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 0) WITH (fillfactor = 20);
INSERT INTO bench.accounts (id) SELECT generate_series(1, 500);
GRANT SELECT, UPDATE ON bench.accounts TO bench_worker;
CREATE FUNCTION bench.book(payload jsonb) RETURNS void LANGUAGE plpgsql AS
	$$ BEGIN UPDATE bench.accounts SET balance = balance + 1 WHERE id = (payload->>'account')::integer; END $$;

SELECT jobqueue.register_handler('nothing', 'bench.nothing(jsonb)', run_as => 'bench_worker');
SELECT jobqueue.register_handler('pause', 'bench.pause(jsonb)', run_as => 'bench_worker');
SELECT jobqueue.register_handler('start', 'bench.start(jsonb)', run_as => 'bench_worker');
SELECT jobqueue.register_handler('book', 'bench.book(jsonb)', run_as => 'bench_worker');
SELECT jobqueue.pause_queue(NULL);

-- The same rows, checks and indexes, without queue.
CREATE TABLE bench.plain (LIKE jobqueue.tasks_live INCLUDING ALL);

-- Tasks are done nearly in the order of their ids, so the lowest one that is left tells how many are: counting a
-- million rows fifty times a second would take the time that is to be measured. Where it was last is remembered, since
-- entries of finished tasks stay in the index until vacuum comes, and some way behind it, for ids may be committed out
-- of order.
CREATE UNLOGGED SEQUENCE bench.seen MINVALUE 0;
CREATE FUNCTION bench.lowest() RETURNS bigint LANGUAGE plpgsql
	SET enable_seqscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
	last bigint := (SELECT last_value + is_called::integer - 1 FROM jobqueue.tasks_id_seq);
	mark bigint := (SELECT last_value FROM bench.seen);
	lowest bigint;
BEGIN
	SELECT id INTO lowest FROM jobqueue.tasks_live WHERE id >= mark ORDER BY id LIMIT 1;
	lowest := coalesce(lowest, last + 1);
	IF lowest > mark + 2000 THEN
		PERFORM setval('bench.seen', lowest - 1000);
	END IF;
	RETURN lowest;
END $$;
CREATE FUNCTION bench.remaining() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT last_value + is_called::integer - 1 FROM jobqueue.tasks_id_seq);
BEGIN
	RETURN greatest(last - bench.lowest() + 1, 0);
END $$;

-- For producers: waits while so many tasks or more wait already.
CREATE FUNCTION bench.wait_below(tasks bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE bench.remaining() >= tasks LOOP
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;
