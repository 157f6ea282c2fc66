-- adopt: a restored or copied database runs nothing until then
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
SELECT count(*), bool_and(paused_at IS NULL) FROM jobqueue.incarnation;
SELECT jobqueue.adopt();
CREATE FUNCTION ad_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'ran'$$;
SELECT jobqueue.register_handler('ad', 'ad_handler(jsonb)');
SELECT jobqueue.enqueue('ad') AS a \gset
SELECT status FROM jobqueue.wait_for(:a, '10 s');

-- a restore brings another installation's row
INSERT INTO jobqueue.incarnation (id, database) VALUES ('00000000-0000-0000-0000-000000000001', 1);
SELECT jobqueue.enqueue('ad') AS a \gset
INSERT INTO jobqueue.tasks (type) VALUES ('ad') RETURNING id AS b \gset
SELECT jobqueue.wait_for(:a, '300 ms') IS NULL;
SELECT status, attempts FROM jobqueue.tasks WHERE id IN (:a, :b);
-- a queue that is resumed does not start it
SELECT jobqueue.resume_queue('default');
SELECT jobqueue.wait_for(:a, '300 ms') IS NULL;
SELECT jobqueue.adopt();
SELECT status, attempts FROM jobqueue.wait_for(:a, '10 s');
SELECT status, attempts FROM jobqueue.wait_for(:b, '10 s');
SELECT jobqueue.adopt();
SELECT count(*), bool_and(paused_at IS NULL) FROM jobqueue.incarnation;

-- rolled back: still held
INSERT INTO jobqueue.incarnation (id, database) VALUES ('00000000-0000-0000-0000-000000000002', 1);
BEGIN;
SELECT jobqueue.adopt();
ROLLBACK;
SELECT jobqueue.enqueue('ad') AS a \gset
SELECT jobqueue.wait_for(:a, '300 ms') IS NULL;
SELECT jobqueue.adopt();
SELECT status, attempts FROM jobqueue.wait_for(:a, '10 s');

-- not for everybody
CREATE ROLE ad_manager;
SELECT jobqueue.grant_access('ad_manager', 'manager');
SET ROLE ad_manager;
SELECT pg_temp.try('SELECT jobqueue.adopt()');
RESET ROLE;
SELECT jobqueue.revoke_access('ad_manager', 'manager');
DROP ROLE ad_manager;
SELECT jobqueue.unregister_handler('ad');
DROP FUNCTION ad_handler;
DELETE FROM jobqueue.tasks;
