-- The tasks table as any article about queues expects it: plain INSERT, COPY, UPDATE, DELETE
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- only the type is needed
INSERT INTO jobqueue.tasks (type) VALUES ('plain');
INSERT INTO jobqueue.tasks (type) VALUES ('plain'), ('plain'), ('plain');
INSERT INTO jobqueue.tasks (type, payload) SELECT 'plain', jsonb_build_object('n', n) FROM generate_series(1, 1000) n;
COPY jobqueue.tasks (type) FROM stdin;
plain
plain
\.
COPY jobqueue.tasks (type, payload, queue, priority) FROM stdin;
plain	{"copied": 1}	default	3
plain	"text"	copied	-3
\.
SELECT count(*), count(DISTINCT id), bool_and(id IS NOT NULL), bool_and(status = 'pending'), bool_and(attempts = 0),
	bool_and(created_by = current_user), bool_and(created_at IS NOT NULL AND updated_at IS NOT NULL),
	bool_and(tableoid = 'jobqueue.tasks_live'::regclass)
FROM jobqueue.tasks WHERE type = 'plain';
SELECT payload, queue, priority FROM jobqueue.tasks WHERE type = 'plain' AND payload NOT IN ('{}') AND payload->'n'
	IS NULL ORDER BY id;
INSERT INTO jobqueue.tasks (type, payload) VALUES ('plain-returning', '[1]') RETURNING type, payload, status, queue,
	attempts, priority;
WITH added AS (INSERT INTO jobqueue.tasks (type) SELECT 'plain-cte' FROM generate_series(1, 3) RETURNING id)
SELECT count(*) FROM added;
-- claim() hands them out like any other
SELECT type, payload, status, attempts FROM jobqueue.claim('copied');
SELECT count(*) FROM jobqueue.claim(max_tasks => 2000, types => '{plain}');

-- what is refused
SELECT command, pg_temp.try('INSERT INTO jobqueue.tasks ' || command) FROM (VALUES
	($$(type) VALUES (NULL)$$),
	($$(type) VALUES ('')$$),
	($$(payload) VALUES ('{}')$$),
	($$(type, payload) VALUES ('bad', NULL)$$),
	($$(type, payload) VALUES ('bad', '')$$),
	($$(type, payload) VALUES ('bad', 'no JSON')$$),
	($$(type, status) VALUES ('bad', 'done')$$),
	($$(type, status) VALUES ('bad', 'Pending')$$),
	($$(type, status) VALUES ('bad', '')$$),
	($$(type, status) VALUES ('bad', NULL)$$),
	($$(type, queue) VALUES ('bad', '')$$),
	($$(type, queue) VALUES ('bad', NULL)$$),
	($$(type, queue) VALUES ('bad', repeat('q', 64))$$),
	($$(type, queue) VALUES ('bad', repeat('ä', 32))$$),
	($$(type, priority) VALUES ('bad', NULL)$$),
	($$(type, priority) VALUES ('bad', 32768)$$),
	($$(type, max_attempts) VALUES ('bad', 0)$$),
	($$(type, max_attempts) VALUES ('bad', -1)$$),
	($$(type, timeout) VALUES ('bad', '0')$$),
	($$(type, failures) VALUES ('bad', '{}')$$),
	($$(type, origin_queue) VALUES ('bad', '')$$),
	($$(type, unique_scope) VALUES ('bad', 'Live')$$),
	($$(type, attempts) VALUES ('bad', NULL)$$)
) v(command);
COPY jobqueue.tasks (type, payload) FROM stdin;
bad	{"fine": true}
bad	{not json
\.
\set VERBOSITY terse
COPY jobqueue.tasks (type) FROM stdin;
\N
\.
\set VERBOSITY default
SELECT command, pg_temp.try('UPDATE jobqueue.tasks SET ' || command) FROM (VALUES
	($$status = 'done' WHERE type = 'plain-returning'$$),
	($$status = NULL WHERE type = 'plain-returning'$$),
	($$type = '' WHERE type = 'plain-returning'$$),
	($$type = NULL WHERE type = 'plain-returning'$$),
	($$payload = NULL WHERE type = 'plain-returning'$$),
	($$queue = '' WHERE type = 'plain-returning'$$)
) v(command);
SELECT count(*) FROM jobqueue.tasks WHERE type IN ('bad', '');
DELETE FROM jobqueue.tasks;

-- the claim of the articles: no other claim gets the task, and it has no lease
INSERT INTO jobqueue.tasks (type, payload, created_at) VALUES ('article', '2', now() - interval '1 h'),
	('article', '1', now() - interval '2 h');
UPDATE jobqueue.tasks SET status = 'processing', updated_at = now(), processed_at = now()
WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending' ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, payload, status, lease_expires_at IS NULL AS no_lease \gset
SELECT :'payload', :'status', :'no_lease';
SELECT payload FROM jobqueue.claim(max_tasks => 10);
SELECT payload, pg_temp.leaf(id) FROM jobqueue.tasks WHERE status = 'processing' AND lease_expires_at IS NULL;

-- finished the way of the articles: stamped, and archived by the scheduler
BEGIN;
SELECT updated_at AS before FROM jobqueue.tasks WHERE id = :id \gset
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id RETURNING finished_at BETWEEN now() AND clock_timestamp(),
	updated_at BETWEEN now() AND clock_timestamp();
COMMIT;
\set archived 'pg_temp.leaf(' :id ') = ''jobqueue.tasks_history'''
CALL pg_temp.wait_until(:'archived');
SELECT status, payload, type, finished_at > :'before', finished_at = updated_at,
	created_at < now() - interval '1 h' FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM jobqueue.tasks WHERE id = :id;
SELECT status, payload FROM jobqueue.wait_for(:id, '5 s');

-- the other ends, many at once, and one that says the time itself
INSERT INTO jobqueue.tasks (type) SELECT 'article-failed' FROM generate_series(1, 20);
INSERT INTO jobqueue.tasks (type) SELECT 'article-cancelled' FROM generate_series(1, 20);
INSERT INTO jobqueue.tasks (type, payload) SELECT 'article-completed', to_jsonb(n) FROM generate_series(1, 2000) n;
UPDATE jobqueue.tasks SET status = substr(type, 9) WHERE type LIKE 'article-%';
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE type LIKE 'article-%')$$);
SELECT type, status, pg_temp.leaf(min(id)), count(*), count(DISTINCT id), bool_and(finished_at IS NOT NULL),
	sum(payload::int) FILTER (WHERE type LIKE '%completed')
FROM jobqueue.tasks WHERE type LIKE 'article-%' GROUP BY type, status ORDER BY type;
INSERT INTO jobqueue.tasks (type) VALUES ('article-time') RETURNING id \gset
UPDATE jobqueue.tasks SET status = 'completed', finished_at = '2020-02-02 UTC',
	result = '{"by": "hand"}' WHERE id = :id;
\set archived 'pg_temp.leaf(' :id ') = ''jobqueue.tasks_history'''
CALL pg_temp.wait_until(:'archived');
SELECT finished_at = '2020-02-02 UTC', result FROM jobqueue.tasks WHERE id = :id;

-- delete when done, the other way of the articles
INSERT INTO jobqueue.tasks (type) VALUES ('article-delete');
DELETE FROM jobqueue.tasks WHERE id = (SELECT id FROM jobqueue.tasks WHERE status = 'pending'
	AND type = 'article-delete'
	ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING type;

-- given back by hand: claimable again
INSERT INTO jobqueue.tasks (type) VALUES ('article-back') RETURNING id \gset
UPDATE jobqueue.tasks SET status = 'processing' WHERE id = :id;
SELECT count(*) FROM jobqueue.claim(types => '{article-back}');
UPDATE jobqueue.tasks SET status = 'pending' WHERE id = :id RETURNING updated_at BETWEEN now() AND clock_timestamp();
SELECT type, attempts FROM jobqueue.claim(types => '{article-back}');

-- a claim() that is finished by hand in spite of its lease
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :id RETURNING finished_at BETWEEN now() AND clock_timestamp()
	AND updated_at BETWEEN now() AND clock_timestamp();
\set archived 'pg_temp.leaf(' :id ') = ''jobqueue.tasks_history'''
CALL pg_temp.wait_until(:'archived');
SELECT jobqueue.complete(:id, 1);

-- a pending task whose time is in the future is never run early: the claimer that meets it makes it scheduled
INSERT INTO jobqueue.tasks (type, run_at, queue) VALUES ('ahead', now() + interval '1 h', 'ahead') RETURNING id \gset
INSERT INTO jobqueue.tasks (type, run_at, queue) VALUES ('behind', now() - interval '1 h', 'ahead');
SELECT type FROM jobqueue.claim('ahead', 10);
SELECT status, run_at > now() FROM jobqueue.tasks WHERE id = :id;
SELECT type FROM jobqueue.claim('ahead', 10);
INSERT INTO jobqueue.tasks (type, run_at, queue) VALUES ('soon', clock_timestamp() + interval '200 ms', 'soon')
	RETURNING id, run_at \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('soon'))$$);
SELECT status, processed_at >= :'run_at' FROM jobqueue.tasks WHERE id = :id;

-- scheduled by hand: made due at its time
INSERT INTO jobqueue.tasks (type, status, run_at, queue) VALUES ('hand-scheduled', 'scheduled', now(),
	'hand-scheduled');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('hand-scheduled'))$$);

-- truncate, and no constraint that a row could slip past by a leaf
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks_history_1 (type, status, slot) VALUES ('bad', 'pending', 1)$$);
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks_failed (type, status, slot) VALUES ('bad', 'completed', -1)$$);
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type, slot) VALUES ('bad', 9)$$);
TRUNCATE jobqueue.tasks;
SELECT count(*) FROM jobqueue.tasks;
-- and the queue works as before
INSERT INTO jobqueue.tasks (type) VALUES ('after-truncate');
SELECT type FROM jobqueue.claim();
DELETE FROM jobqueue.tasks;
