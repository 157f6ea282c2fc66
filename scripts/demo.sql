SET client_min_messages = warning;
CREATE EXTENSION jobqueue;

\echo
\echo '-- The work: a function of the database.'
CREATE TABLE mail (recipient text NOT NULL, sent_at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION send_mail(payload jsonb) RETURNS void
	LANGUAGE sql AS $$ INSERT INTO mail (recipient) VALUES (payload->>'to') $$;
SELECT jobqueue.register_handler('send_mail', 'send_mail(jsonb)', max_attempts => 1);

\echo
\echo '-- A task comes with the transaction that asks for it ...'
BEGIN;
SELECT jobqueue.enqueue('send_mail', '{"to": "ann@example.org"}') AS task \gset
COMMIT;
SELECT id, type, status, result, finished_at - created_at AS took FROM jobqueue.wait_for(:task, '10 seconds');
TABLE mail;

\echo
\echo '-- ... or not at all.'
BEGIN;
SELECT jobqueue.enqueue('send_mail', '{"to": "nobody@example.org"}');
ROLLBACK;
TABLE mail;

\echo
\echo '-- What fails leaves nothing behind but its error, for somebody to look at.'
SELECT jobqueue.enqueue('send_mail', '{"to": null}') AS task \gset
SELECT id, status, attempts, last_error FROM jobqueue.wait_for(:task, '10 seconds');

\echo
\echo '-- A thousand at once.'
SELECT count(*) FROM jobqueue.enqueue_many('send_mail',
	ARRAY(SELECT jsonb_build_object('to', 'user' || n || '@example.org') FROM generate_series(1, 1000) n));
SELECT max(id) AS task FROM jobqueue.tasks \gset
SELECT status FROM jobqueue.wait_for(:task, '10 seconds');
SELECT status, count(*) FROM jobqueue.tasks GROUP BY status ORDER BY status;
