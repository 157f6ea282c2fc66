-- enqueue_row: a task for each row that changes
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

CREATE TABLE er_orders (id integer PRIMARY KEY, item text, placed timestamptz DEFAULT '2020-02-02 12:00 UTC',
	"Odd ""Name""" numeric DEFAULT 1.50, tags text[]);
CREATE TRIGGER er AFTER INSERT OR UPDATE OR DELETE ON er_orders FOR EACH ROW
	EXECUTE FUNCTION jobqueue.enqueue_row('er-order');
INSERT INTO er_orders (id, item, tags) VALUES (1, 'pen', '{a,"b c"}'), (2, NULL, NULL);
UPDATE er_orders SET item = 'pencil' WHERE id = 1;
DELETE FROM er_orders WHERE id = 2;
SELECT payload->'op', payload->'table', ARRAY(SELECT jsonb_object_keys(payload)) FROM jobqueue.tasks
	WHERE type = 'er-order' ORDER BY id;
SELECT payload->'new' FROM jobqueue.tasks WHERE type = 'er-order' ORDER BY id;
SELECT payload->'old' FROM jobqueue.tasks WHERE type = 'er-order' ORDER BY id;
SELECT DISTINCT queue, status, priority, created_by = current_user FROM jobqueue.tasks WHERE type = 'er-order';
DELETE FROM jobqueue.tasks;

-- rolled back with the row; not for rows that did not change
BEGIN;
INSERT INTO er_orders (id) VALUES (3);
ROLLBACK;
INSERT INTO er_orders (id) VALUES (1) ON CONFLICT DO NOTHING;
UPDATE er_orders SET item = 'x' WHERE false;
SELECT count(*) FROM jobqueue.tasks;
-- many rows, of a COPY too
COPY er_orders (id, item) FROM stdin;
10	a
11	b
\.
INSERT INTO er_orders (id) SELECT generate_series(100, 1099);
SELECT count(*), count(DISTINCT payload->'new'->'id') FROM jobqueue.tasks WHERE type = 'er-order';
DELETE FROM jobqueue.tasks;
DROP TRIGGER er ON er_orders;

-- a partition, a schema, a WHEN
CREATE SCHEMA "er Schema";
CREATE TABLE "er Schema".t (a integer) PARTITION BY LIST (a);
CREATE TABLE "er Schema".t_1 PARTITION OF "er Schema".t FOR VALUES IN (1, 2);
CREATE TRIGGER er AFTER INSERT ON "er Schema".t FOR EACH ROW WHEN (NEW.a = 1)
	EXECUTE FUNCTION jobqueue.enqueue_row('er-schema');
INSERT INTO "er Schema".t VALUES (1), (2);
SELECT payload->'table', payload->'new' FROM jobqueue.tasks WHERE type = 'er-schema';
DROP TABLE "er Schema".t;
DROP SCHEMA "er Schema";

-- From 18 on, triggers get no values of virtual generated columns: such a column has no key. The column "late" is in no
-- row that was there before.
SELECT current_setting('server_version_num')::integer >= 180000 AS has_virtual \gset
CREATE TABLE er_virtual (a integer, gone integer, stored integer GENERATED ALWAYS AS (a + 1) STORED, b text);
\if :has_virtual
ALTER TABLE er_virtual ADD twice integer GENERATED ALWAYS AS (a * 2) VIRTUAL;
\endif
ALTER TABLE er_virtual DROP gone;
INSERT INTO er_virtual VALUES (1, DEFAULT, repeat('x', 3));
ALTER TABLE er_virtual ADD late text DEFAULT 'default';
CREATE TRIGGER er AFTER INSERT OR UPDATE OR DELETE ON er_virtual FOR EACH ROW
	EXECUTE FUNCTION jobqueue.enqueue_row('er-virtual');
UPDATE er_virtual SET a = 2;
DELETE FROM er_virtual;
INSERT INTO er_virtual (a, b) SELECT 3, string_agg(md5(n::text), '') FROM generate_series(1, 1000) n;
UPDATE er_virtual SET a = 4;
SELECT payload #- '{new,b}' #- '{old,b}', length(payload->'new'->>'b'), length(payload->'old'->>'b')
	FROM jobqueue.tasks WHERE type = 'er-virtual' ORDER BY id;
DELETE FROM jobqueue.tasks;
DROP TABLE er_virtual;

-- a deferred constraint trigger enqueues at the commit
CREATE CONSTRAINT TRIGGER er AFTER INSERT ON er_orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	EXECUTE FUNCTION jobqueue.enqueue_row('er-deferred');
BEGIN;
INSERT INTO er_orders (id) VALUES (5);
SELECT count(*) FROM jobqueue.tasks WHERE type = 'er-deferred';
COMMIT;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'er-deferred';
SELECT type FROM jobqueue.claim(types => '{er-deferred}');
DROP TRIGGER er ON er_orders;

-- the handler's queue, and its worker
SET client_min_messages = warning;
CREATE FUNCTION er_handler(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT payload->'new'->'id'$$;
SELECT jobqueue.register_handler('er-handled', 'er_handler(jsonb)', queue => 'er-queue');
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('er-handled');
INSERT INTO er_orders (id) VALUES (6);
SELECT id FROM jobqueue.tasks WHERE type = 'er-handled' \gset
SELECT queue, status, result FROM jobqueue.wait_for(:id, '10 s');
DROP TRIGGER er ON er_orders;
SELECT jobqueue.unregister_handler('er-handled');
DROP FUNCTION er_handler;

-- what is refused
SELECT pg_temp.try('SELECT jobqueue.enqueue_row()');
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row();
SELECT pg_temp.try('INSERT INTO er_orders (id) VALUES (7)');
DROP TRIGGER er ON er_orders;
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('');
SELECT pg_temp.try('INSERT INTO er_orders (id) VALUES (7)');
DROP TRIGGER er ON er_orders;
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('a', 'b');
SELECT pg_temp.try('INSERT INTO er_orders (id) VALUES (7)');
DROP TRIGGER er ON er_orders;
-- before the row is there, it may yet change
CREATE TRIGGER er BEFORE INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('er');
SELECT pg_temp.try('INSERT INTO er_orders (id) VALUES (7)');
DROP TRIGGER er ON er_orders;
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH STATEMENT EXECUTE FUNCTION jobqueue.enqueue_row('er');
SELECT pg_temp.try('INSERT INTO er_orders (id) VALUES (7)');
DROP TRIGGER er ON er_orders;
CREATE TRIGGER er AFTER TRUNCATE ON er_orders FOR EACH STATEMENT EXECUTE FUNCTION jobqueue.enqueue_row('er');
SELECT pg_temp.try('TRUNCATE er_orders');
DROP TRIGGER er ON er_orders;
SELECT count(*) FROM er_orders WHERE id = 7;

-- only a producer makes such a trigger
CREATE ROLE er_role;
GRANT INSERT, TRIGGER ON er_orders TO er_role;
SET ROLE er_role;
\set VERBOSITY sqlstate
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('er');
\set VERBOSITY default
RESET ROLE;
SELECT jobqueue.grant_access('er_role', 'producer');
SET ROLE er_role;
CREATE TRIGGER er AFTER INSERT ON er_orders FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row('er');
INSERT INTO er_orders (id) VALUES (8);
RESET ROLE;
SELECT created_by, payload->'new'->'id' FROM jobqueue.tasks WHERE type = 'er';
DROP TABLE er_orders;
SELECT jobqueue.revoke_access('er_role', 'producer');
DROP ROLE er_role;
DELETE FROM jobqueue.tasks;
