-- register_handler and unregister_handler: what may be a handler, and whose
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

CREATE ROLE h_manager;
CREATE ROLE h_other;
CREATE ROLE h_member_of;
GRANT h_member_of TO h_manager;
SELECT jobqueue.grant_access('h_manager', 'manager');
SELECT jobqueue.grant_access('h_other', 'manager');
CREATE SCHEMA "H Schema";
GRANT USAGE ON SCHEMA "H Schema" TO PUBLIC;
SET search_path = "H Schema", public;
CREATE FUNCTION "H Schema".f(payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".f(task jobqueue.tasks) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema"."Odd ""Name"""(payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE "H Schema".p(payload jsonb) LANGUAGE sql AS '';
CREATE PROCEDURE "H Schema".p(task jobqueue.tasks) LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".no_argument() RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".two_arguments(a jsonb, b jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".takes_json(payload json) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".takes_text(payload text) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".takes_live(task jobqueue.tasks_live) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".takes_array(payloads jsonb[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".variadic_payload(VARIADIC payloads jsonb[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".output(payload jsonb, OUT a integer, OUT b integer) LANGUAGE sql AS 'SELECT 1, 2';
CREATE PROCEDURE "H Schema".inout(INOUT payload jsonb) LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION "H Schema".a_set(payload jsonb) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION "H Schema".trigger_function() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE AGGREGATE "H Schema".an_aggregate(jsonb) (SFUNC = jsonb_concat, STYPE = jsonb);
CREATE DOMAIN "H Schema".arrays AS jsonb[];
CREATE FUNCTION "H Schema".takes_tasks(tasks jobqueue.tasks[]) RETURNS jsonb[] LANGUAGE sql AS 'SELECT NULL::jsonb[]';
CREATE PROCEDURE "H Schema".batch_procedure(payloads jsonb[]) LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_of_live(tasks jobqueue.tasks_live[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_of_text(payloads text[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_of_domain(payloads "H Schema".arrays) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_of_any(payloads anyarray) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_and_more(payloads jsonb[], more integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "H Schema".batch_to_jsonb(payloads jsonb[]) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb';
CREATE FUNCTION "H Schema".batch_to_text(payloads jsonb[]) RETURNS text[] LANGUAGE sql AS 'SELECT NULL::text[]';
CREATE FUNCTION "H Schema".batch_to_domain(payloads jsonb[]) RETURNS "H Schema".arrays LANGUAGE sql
	AS 'SELECT payloads::"H Schema".arrays';
CREATE FUNCTION "H Schema".batch_to_set(payloads jsonb[]) RETURNS SETOF jsonb[] LANGUAGE sql AS 'SELECT payloads';
CREATE FUNCTION "H Schema".batch_output(payloads jsonb[], OUT results jsonb[]) LANGUAGE sql AS 'SELECT payloads';

SET client_min_messages = warning;

-- what is stored
SELECT jobqueue.register_handler('h', '"H Schema".f(jsonb)', queue => 'h-queue', max_attempts => 3);
SELECT type, handler, queue, run_as = current_user, max_attempts FROM jobqueue.handlers;
-- again: replaces, what is left out is the default again
SELECT jobqueue.register_handler('h', '"H Schema".f(jobqueue.tasks)');
SELECT jobqueue.register_handler('h', '"H Schema".f(jobqueue.tasks)');
SELECT type, handler, queue, run_as = current_user, max_attempts FROM jobqueue.handlers;
-- whatever the caller's search path: the name is complete, and quoted
SELECT jobqueue.register_handler('h', '"Odd ""Name"""(jsonb)');
SELECT handler FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', 'p(jsonb)');
SELECT handler FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', 'p(jobqueue.tasks)');
SELECT handler FROM jobqueue.handlers;
SET search_path = "H Schema", jobqueue;
SELECT jobqueue.register_handler('h', 'f(tasks)');
RESET search_path;
SELECT handler FROM jobqueue.handlers;
-- batch handlers: of payloads or of tasks, several at once or one
SELECT jobqueue.register_handler('h', '"H Schema".takes_array(jsonb[])', batch_size => 1000);
SELECT handler, batch_size FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', '"H Schema".takes_tasks(jobqueue.tasks[])', batch_size => 2);
SELECT handler, batch_size FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', '"H Schema".takes_array(jsonb[])');
SELECT handler, batch_size FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', '"H Schema".f(jsonb)', batch_size => 1);
SELECT handler, batch_size FROM jobqueue.handlers;
SELECT jobqueue.register_handler('h', '"H Schema".f(jsonb)', batch_size => 2);
SELECT jobqueue.register_handler('h', '"H Schema".batch_to_jsonb(jsonb[])');
-- rolled back
BEGIN;
SELECT jobqueue.register_handler('h-rolled-back', '"H Schema".f(jsonb)');
ROLLBACK;
SELECT type FROM jobqueue.handlers;
SELECT jobqueue.unregister_handler('h');
SELECT jobqueue.unregister_handler('h');
SELECT count(*) FROM jobqueue.handlers;

-- what is refused
SET search_path = "H Schema", public;
-- before version 17 the server writes json with its schema
SELECT command, replace(pg_temp.try('SELECT jobqueue.' || command), '(pg_catalog.json)', '(json)') FROM (VALUES
	($$register_handler(NULL, 'f(jsonb)')$$),
	($$register_handler('', 'f(jsonb)')$$),
	($$register_handler('h', NULL)$$),
	($$register_handler('h', 'no_such_function(jsonb)')$$),
	($$register_handler('h', 0::oid::regprocedure)$$),
	($$register_handler('h', 4294967295::oid::regprocedure)$$),
	($$register_handler('h', 'no_argument()')$$),
	($$register_handler('h', 'two_arguments(jsonb, jsonb)')$$),
	($$register_handler('h', 'takes_json(json)')$$),
	($$register_handler('h', 'takes_text(text)')$$),
	($$register_handler('h', 'takes_live(jobqueue.tasks_live)')$$),
	($$register_handler('h', 'variadic_payload(jsonb[])')$$),
	($$register_handler('h', 'output(jsonb)')$$),
	($$register_handler('h', 'inout(jsonb)')$$),
	($$register_handler('h', 'a_set(jsonb)')$$),
	($$register_handler('h', 'trigger_function()')$$),
	($$register_handler('h', 'an_aggregate(jsonb)')$$),
	($$register_handler('h', 'f(jsonb)', queue => '')$$),
	($$register_handler('h', 'f(jsonb)', queue => repeat('q', 64))$$),
	($$register_handler('h', 'f(jsonb)', run_as => 'no_such_role')$$),
	($$register_handler('h', 'f(jsonb)', run_as => '')$$),
	($$register_handler('h', 'f(jsonb)', max_attempts => 0)$$),
	($$register_handler('h', 'f(jsonb)', max_attempts => -1)$$),
	($$register_handler('h', 'batch_procedure(jsonb[])')$$),
	($$register_handler('h', 'batch_of_live(jobqueue.tasks_live[])')$$),
	($$register_handler('h', 'batch_of_text(text[])')$$),
	($$register_handler('h', 'batch_of_domain(arrays)')$$),
	($$register_handler('h', 'batch_of_any(anyarray)')$$),
	($$register_handler('h', 'batch_and_more(jsonb[], integer)')$$),
	($$register_handler('h', 'batch_to_jsonb(jsonb[])')$$),
	($$register_handler('h', 'batch_to_text(jsonb[])')$$),
	($$register_handler('h', 'batch_to_domain(jsonb[])')$$),
	($$register_handler('h', 'batch_to_set(jsonb[])')$$),
	($$register_handler('h', 'batch_output(jsonb[])')$$),
	($$register_handler('h', 'f(jsonb)', batch_size => 2)$$),
	($$register_handler('h', 'f(jobqueue.tasks)', batch_size => 1000)$$),
	($$register_handler('h', 'p(jsonb)', batch_size => 2)$$),
	($$register_handler('h', 'takes_array(jsonb[])', batch_size => 0)$$),
	($$register_handler('h', 'takes_array(jsonb[])', batch_size => -1)$$),
	($$register_handler('h', 'takes_array(jsonb[])', batch_size => 1001)$$),
	($$register_handler('h', 'takes_array(jsonb[])', batch_size => 2147483647)$$),
	($$unregister_handler(NULL)$$),
	($$unregister_handler('')$$)
) v(command);
SELECT count(*) FROM jobqueue.handlers;
RESET search_path;

-- run_as: the caller, or a role it is a member of; never more
SET ROLE h_manager;
SELECT jobqueue.register_handler('h-own', '"H Schema".f(jsonb)');
SELECT jobqueue.register_handler('h-group', '"H Schema".f(jsonb)', run_as => 'h_member_of');
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$register_handler('h', '"H Schema".f(jsonb)', run_as => 'postgres')$$),
	($$register_handler('h', '"H Schema".f(jsonb)', run_as => 'h_other')$$),
	($$register_handler('h', '"H Schema".f(jsonb)', run_as => 'no_such_role')$$),
	($$register_handler('h', '"H Schema".f(jsonb)', run_as => 'pg_read_all_data')$$)
) v(command);
SELECT type, run_as FROM jobqueue.handlers ORDER BY type;
-- not even by writing to the tables
SELECT pg_temp.try($$UPDATE jobqueue.handlers SET run_as = 'postgres'$$);
SELECT pg_temp.try($$INSERT INTO jobqueue.handlers (type, handler, run_as, incarnation) SELECT 'h-forged', handler,
	'postgres', incarnation FROM jobqueue.handlers LIMIT 1$$);
RESET ROLE;

-- from 16 on, a membership may be one without SET ROLE
SELECT current_setting('server_version_num')::integer >= 160000 AS has_options \gset
\if :has_options
GRANT h_other TO h_manager WITH SET FALSE;
\endif
SET ROLE h_manager;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('h', '"H Schema".f(jsonb)', run_as => 'h_other')$$);
RESET ROLE;
\if :has_options
REVOKE h_other FROM h_manager;
\endif

-- another owner's handler is not replaced, nor taken away
SET ROLE h_other;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('h-own', '"H Schema".f(jsonb)')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('h-group', '"H Schema".f(jsonb)')$$);
SELECT pg_temp.try($$SELECT jobqueue.unregister_handler('h-own')$$);
SELECT pg_temp.try($$SELECT jobqueue.unregister_handler('h-group')$$);
RESET ROLE;
SELECT type, run_as FROM jobqueue.handlers ORDER BY type;
-- by its owner it is
SET ROLE h_manager;
SELECT jobqueue.register_handler('h-own', '"H Schema".p(jsonb)');
SELECT jobqueue.unregister_handler('h-group');
RESET ROLE;
SELECT type, handler, run_as FROM jobqueue.handlers ORDER BY type;

-- the role must be allowed to call it, and is no superuser where that is forbidden
REVOKE EXECUTE ON FUNCTION "H Schema".f(jsonb) FROM PUBLIC;
SET ROLE h_other;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('h-no-right', '"H Schema".f(jsonb)')$$);
RESET ROLE;
ALTER SYSTEM SET jobqueue.allow_superuser_handlers = off;
SELECT pg_reload_conf();
\c -
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
SHOW jobqueue.allow_superuser_handlers;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('h-super', '"H Schema".f(jsonb)')$$);
SELECT jobqueue.register_handler('h-not-super', '"H Schema".p(jsonb)', run_as => 'h_other');
SELECT type, run_as FROM jobqueue.handlers ORDER BY type;
ALTER SYSTEM RESET jobqueue.allow_superuser_handlers;
SELECT pg_reload_conf();
\c -
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

-- a superuser may take away anybody's
SELECT jobqueue.unregister_handler(type) FROM jobqueue.handlers;
SELECT count(*) FROM jobqueue.handlers;

-- tasks of the type stay queued
SELECT jobqueue.pause_queue('h-stays');
SELECT jobqueue.register_handler('h-stays', '"H Schema".f(jsonb)', queue => 'h-stays');
SELECT jobqueue.enqueue('h-stays') AS id \gset
SELECT jobqueue.unregister_handler('h-stays');
SELECT jobqueue.resume_queue('h-stays');
SELECT status, queue FROM jobqueue.tasks WHERE id = :id;
SELECT type FROM jobqueue.claim('h-stays');

SELECT jobqueue.revoke_access('h_manager', 'manager'), jobqueue.revoke_access('h_other', 'manager');
DROP SCHEMA "H Schema" CASCADE;
DROP ROLE h_manager, h_other, h_member_of;
DELETE FROM jobqueue.tasks;
