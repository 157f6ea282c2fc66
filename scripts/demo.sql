-- What scripts/demo shows, as the role "shop". Stops at the first step that does not do what its line promises.
\set ON_ERROR_STOP on
\set QUIET on
\pset pager off
\pset footer off
SET client_min_messages = warning;

-- The shop's tables, and a check for this script.
CREATE TABLE product (sku text PRIMARY KEY, title text NOT NULL, price numeric(8,2) NOT NULL);
CREATE TABLE "order" (id int PRIMARY KEY, customer text NOT NULL, email text NOT NULL);
CREATE TABLE order_line (order_id int REFERENCES "order", sku text REFERENCES product, quantity int NOT NULL);
CREATE TABLE outbox (id int GENERATED ALWAYS AS IDENTITY, recipient text NOT NULL, subject text NOT NULL,
	body text NOT NULL, sent_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO product VALUES
	('tea-sencha', 'Sencha, 100 g', 11.90), ('tea-assam', 'Assam "Second Flush", 250 g', 14.50),
	('pot-iron', 'Cast iron teapot, 0.8 l', 64.00), ('cup', 'Cup without handle', 9.25),
	('book', 'Okakura, The Book of Tea', 12.00);
CREATE FUNCTION expect(condition boolean, what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF condition IS NOT TRUE THEN
		RAISE EXCEPTION 'the demo does not show: %', what;
	END IF;
	RETURN 'ok: ' || what;
END $$;

\echo
\echo '== 1. The work is a function of the database. Look at the INSERT: the e-mail is a row of the shop''s outbox.'
\set ECHO queries

CREATE FUNCTION send_receipt(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	bought "order";
	lines text;
	total numeric;
BEGIN
	SELECT * INTO STRICT bought FROM "order" WHERE id = (payload->>'order')::int;
	SELECT string_agg(format(E'%s x %s %s\n', quantity, rpad(title, 30), to_char(quantity * price, '990.00')),
		'' ORDER BY sku),
		sum(quantity * price) INTO lines, total
	FROM order_line JOIN product USING (sku) WHERE order_id = bought.id;

	INSERT INTO outbox (recipient, subject, body) VALUES (bought.email, 'Your order ' || bought.id,
		format(E'Dear %s,\n\nthank you for your order:\n\n%s\nTotal %s EUR\n', bought.customer, lines, total));
	IF bought.email !~ '^[^@ ]+@[^@ ]+\.[a-z]+$' THEN
		RAISE EXCEPTION 'not an e-mail address: %', bought.email USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN bought.email;
END $$;

SELECT jobqueue.register_handler('send_receipt', 'send_receipt(jsonb)', max_attempts => 2) \g /dev/null

\set ECHO none
\echo
\echo '== 2. Four orders, each a transaction that also enqueues its receipt; the third is rolled back.'
\echo '      Look at the outbox: a receipt for each order that is there, and none for the one that is not.'
\set ECHO queries

BEGIN;
INSERT INTO "order" VALUES (1001, 'Ann Arbor', 'ann@example.org');
INSERT INTO order_line VALUES (1001, 'tea-sencha', 2), (1001, 'pot-iron', 1);
SELECT jobqueue.enqueue('send_receipt', '{"order": 1001}') AS first \gset
COMMIT;

BEGIN;
INSERT INTO "order" VALUES (1002, 'Bea O''Hara', 'bea@example.org');
INSERT INTO order_line VALUES (1002, 'tea-assam', 1), (1002, 'cup', 4);
SELECT jobqueue.enqueue('send_receipt', '{"order": 1002}') AS second \gset
COMMIT;

BEGIN;
INSERT INTO "order" VALUES (1003, 'Carl Cash', 'carl@example.org');
INSERT INTO order_line VALUES (1003, 'pot-iron', 100);
SELECT jobqueue.enqueue('send_receipt', '{"order": 1003}') AS never \gset
ROLLBACK;

BEGIN;
INSERT INTO "order" VALUES (1004, 'Dora Dee', 'dora@example.org');
INSERT INTO order_line VALUES (1004, 'book', 1);
SELECT jobqueue.enqueue('send_receipt', '{"order": 1004}') AS fourth \gset
COMMIT;

SELECT id, type, payload, status, result FROM jobqueue.wait_for(:first, '20 s')
UNION ALL SELECT id, type, payload, status, result FROM jobqueue.wait_for(:second, '20 s')
UNION ALL SELECT id, type, payload, status, result FROM jobqueue.wait_for(:fourth, '20 s');

SELECT id, recipient, subject FROM outbox ORDER BY subject;

SELECT body FROM outbox WHERE subject = 'Your order 1001' \g (format=unaligned tuples_only=on)

\set ECHO none
SELECT expect(array_agg(subject ORDER BY subject) = '{Your order 1001,Your order 1002,Your order 1004}',
		'three receipts, once each; order 1003 was rolled back, and its task with it')
	FROM outbox \g (format=unaligned tuples_only=on)
SELECT expect(body LIKE '%Total 87.80 EUR%', 'the handler rendered the order''s lines')
	FROM outbox WHERE subject = 'Your order 1001' \g (format=unaligned tuples_only=on)
SELECT expect(count(*) = 0, 'task ' || :never || ' was never there')
	FROM jobqueue.tasks WHERE id = :never \g (format=unaligned tuples_only=on)

\echo
\echo '== 3. An order with a bad address. The first attempt has failed (see the status), the second comes in 5 s.'
\set ECHO queries

BEGIN;
INSERT INTO "order" VALUES (1005, 'Emil Eich', 'emil at example.org');
INSERT INTO order_line VALUES (1005, 'cup', 1);
SELECT jobqueue.enqueue('send_receipt', '{"order": 1005}') AS bad \gset
COMMIT;

\set ECHO none
-- No wait_for: it waits for the end. The handler's transaction is over when the error is recorded.
DO $$
BEGIN
	FOR i IN 1..2000 LOOP
		EXIT WHEN EXISTS (SELECT FROM jobqueue.tasks WHERE payload = '{"order": 1005}' AND last_error IS NOT NULL);
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
\set ECHO queries
SELECT id, status, attempts, max_attempts, run_at - now() AS again_in, last_sqlstate, last_error
FROM jobqueue.tasks WHERE id = :bad;

\set ECHO none
SELECT expect(status = 'scheduled' AND attempts = 1 AND run_at > now(), 'it waits for its second attempt')
	FROM jobqueue.tasks WHERE id = :bad \g (format=unaligned tuples_only=on)

\echo
\echo '== 4. A delayed task. Look at run_at: nothing happens before; steps 5 and 6 go on meanwhile.'
\set ECHO queries

CREATE FUNCTION ask_for_review(payload jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO outbox (recipient, subject, body)
	SELECT email, 'How do you like it?', 'Dear ' || customer || E',\n\nplease tell us about your order ' || id || E'.\n'
	FROM "order" WHERE id = (payload->>'order')::int
$$;
SELECT jobqueue.register_handler('ask_for_review', 'ask_for_review(jsonb)') \g /dev/null
SELECT jobqueue.enqueue('ask_for_review', '{"order": 1001}', delay => '3 seconds') AS later \gset
SELECT id, type, status, run_at - now() AS due_in FROM jobqueue.tasks WHERE id = :later;

\set ECHO none
SELECT expect(status = 'scheduled', 'it is scheduled')
	FROM jobqueue.tasks WHERE id = :later \g (format=unaligned tuples_only=on)

\echo
\echo '== 5. Work outside the server: labels are printed by a program, a psql that waits in LISTEN task_queue.'
\echo '      Its log: the notification woke it, it claimed the tasks, did its work, and reported the results.'
\set ECHO queries

SELECT pid, application_name, backend_type FROM pg_stat_activity WHERE application_name = 'label printer';
SELECT jobqueue.enqueue_many('print_label', '{"{\"order\": 1001}", "{\"order\": 1002}", "{\"order\": 1004}"}',
	queue => 'shipping');
SELECT id, type, queue, status, result, claimed_by
FROM (SELECT max(id) AS last FROM jobqueue.tasks WHERE type = 'print_label') t, jobqueue.wait_for(t.last, '20 s');

\set ECHO none
\echo 'The log of the label printer:'
-- the worker writes the last line after the task is completed
\! for i in $(seq 1000); do [ "$(grep -c '^reported' "$LABEL_PRINTER_LOG")" -lt 3 ] || break; sleep 0.01; done
\! sed 's/^/    /' "$LABEL_PRINTER_LOG"
\echo
SELECT expect(count(*) = 3 AND bool_and(status = 'completed' AND attempts = 1 AND claimed_by LIKE 'label printer (%'),
		'three labels, printed outside and completed')
	FROM jobqueue.tasks WHERE type = 'print_label' \g (format=unaligned tuples_only=on)

\echo
\echo '== 6. How long from commit to start? 200 transactions with one task each; handlers return their start time.'
\echo '      Look at the median. The clock starts right before COMMIT, so the commit itself is part of it;'
\echo '      but the server of this demo does not wait for its disk.'
\set ECHO queries

CREATE FUNCTION start_time(payload jsonb) RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RETURN clock_timestamp(); END';
SELECT jobqueue.register_handler('start_time', 'start_time(jsonb)') \g /dev/null
DO $$
DECLARE
	task bigint;
BEGIN
	FOR n IN 1..200 LOOP
		task := jobqueue.enqueue('start_time', jsonb_build_object('committed', clock_timestamp()));
		COMMIT;
		PERFORM jobqueue.wait_for(task, '20 s');
	END LOOP;
END $$;

\set ECHO none
\echo
\echo '== 7. Back to the delayed task and to the bad address. Look at late_by, and at the error of the last attempt.'
\set ECHO queries

SELECT id, type, status, processed_at - run_at AS late_by FROM jobqueue.wait_for(:later, '20 s');
SELECT id, type, status, attempts, last_sqlstate, last_error FROM jobqueue.wait_for(:bad, '20 s');

\set ECHO none
SELECT expect(status = 'completed' AND processed_at >= run_at AND processed_at < run_at + interval '2 s',
	'it ran when it was due')
	FROM jobqueue.tasks WHERE id = :later \g (format=unaligned tuples_only=on)
SELECT expect(status = 'failed' AND attempts = 2 AND last_sqlstate = '22023'
	AND last_error = 'not an e-mail address: emil at example.org'
		AND NOT EXISTS (SELECT FROM outbox WHERE recipient LIKE 'emil%'),
		'failed after two attempts, with its error; what the handler had written was rolled back')
	FROM jobqueue.tasks WHERE id = :bad \g (format=unaligned tuples_only=on)

\echo
\echo '== The end: the outbox, the tasks by status, and the time from commit to start.'
\set ECHO queries

SELECT id, recipient, subject, length(body) AS characters FROM outbox ORDER BY id;

SELECT status, type, count(*) FROM jobqueue.tasks GROUP BY status, type ORDER BY status, type;

SELECT count(*) AS tasks,
	round(1000 * percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::numeric, 2) AS median_ms,
	round(1000 * max(seconds), 2) AS worst_ms
FROM (SELECT extract(epoch FROM (result#>>'{}')::timestamptz - (payload->>'committed')::timestamptz) AS seconds
	FROM jobqueue.tasks WHERE type = 'start_time') t;

\set ECHO none
SELECT expect(count(*) = 4, 'four e-mails') FROM outbox \g (format=unaligned tuples_only=on)
SELECT expect(string_agg(n, ' ' ORDER BY n) = 'completed 207 failed 1',
	'207 tasks are completed, one has failed, none is left')
	FROM (SELECT status || ' ' || count(*) AS n FROM jobqueue.tasks GROUP BY status) t
	\g (format=unaligned tuples_only=on)
SELECT expect(percentile_cont(0.5) WITHIN GROUP (ORDER BY (result#>>'{}')::timestamptz -
	(payload->>'committed')::timestamptz)
		BETWEEN interval '0' AND interval '20 ms',
			'half of the handlers started within 20 ms, on whatever machine this is')
	FROM jobqueue.tasks WHERE type = 'start_time' \g (format=unaligned tuples_only=on)
