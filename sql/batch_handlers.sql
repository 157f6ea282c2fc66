-- batch handlers: registered, altered, and called by drain(), which gives them arrays of one
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
\set SHOW_CONTEXT never

CREATE FUNCTION ba_payloads(payloads jsonb[]) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
	CASE payloads[1]->>'do'
	WHEN 'raise' THEN
		RAISE EXCEPTION 'no luck' USING ERRCODE = 'XY123';
	WHEN 'none' THEN
		RETURN '{}';
	WHEN 'two' THEN
		RETURN payloads || payloads;
	WHEN 'no array' THEN
		RETURN NULL;
	WHEN 'of nulls' THEN
		RETURN '{NULL}';
	WHEN 'two dimensions' THEN
		RETURN ARRAY[payloads];
	WHEN 'another bound' THEN
		RETURN '[5:5]={17}';
	WHEN 'snooze' THEN
		PERFORM jobqueue.snooze('1 hour');
	WHEN 'discard' THEN
		PERFORM jobqueue.discard('no use');
	WHEN 'current' THEN
		RETURN ARRAY[(jobqueue.current_task()).payload];
	ELSE
	END CASE;
	RETURN ARRAY[to_jsonb(cardinality(payloads))];
END $$;
CREATE FUNCTION ba_tasks(tasks jobqueue.tasks[]) RETURNS jsonb[] LANGUAGE sql AS $$
	SELECT ARRAY(SELECT to_jsonb(concat_ws(' ', t.type, t.payload, t.status, t.attempts, t.max_attempts))
		FROM unnest(tasks) t)
$$;
CREATE FUNCTION ba_void(payloads jsonb[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION ba_single(payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION ba_jsonb(payloads jsonb[]) RETURNS jsonb LANGUAGE sql AS 'SELECT $1[1]';
CREATE FUNCTION ba_set(payloads jsonb[]) RETURNS SETOF jsonb[] LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION ba_text(payloads text[]) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE ba_procedure(payloads jsonb[]) LANGUAGE sql AS '';

-- what can be registered
SELECT jobqueue.register_handler('ba_payloads', 'ba_payloads(jsonb[])', batch_size => 100, max_attempts => 1);
SELECT jobqueue.register_handler('ba_tasks', 'ba_tasks(jobqueue.tasks[])', batch_size => 1000, max_attempts => 3);
SELECT jobqueue.register_handler('ba_void', 'ba_void(jsonb[])');
SELECT jobqueue.register_handler('ba_single', 'ba_single(jsonb)', batch_size => 1);
SELECT type, handler, batch_size FROM jobqueue.handlers WHERE type LIKE 'ba\_%' ORDER BY type;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_single(jsonb)', batch_size => 2)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_payloads(jsonb[])', batch_size => 0)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_payloads(jsonb[])', batch_size => 1001)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_procedure(jsonb[])', batch_size => 2)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_procedure(jsonb[])')$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_jsonb(jsonb[])', batch_size => 2)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_set(jsonb[])', batch_size => 2)$$);
SELECT pg_temp.try($$SELECT jobqueue.register_handler('ba_x', 'ba_text(text[])', batch_size => 2)$$);

-- and altered: the size must suit the handler that there is then
SELECT jobqueue.alter_handler('ba_void', batch_size => 7);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('ba_void', handler => 'ba_single(jsonb)')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('ba_single', batch_size => 2)$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('ba_void', batch_size => 1001)$$);
SELECT jobqueue.alter_handler('ba_single', handler => 'ba_void(jsonb[])', batch_size => 2);
SELECT jobqueue.alter_handler('ba_single', handler => 'ba_single(jsonb)', batch_size => 1);
SELECT jobqueue.alter_handler('ba_void', max_attempts => 2);
SELECT type, handler, batch_size FROM jobqueue.handlers WHERE type LIKE 'ba\_%' ORDER BY type;

-- drain: arrays of one
BEGIN;
SELECT count(jobqueue.enqueue('ba_payloads', jsonb_build_object('do', what)))
FROM unnest('{nothing,raise,none,two,no array,of nulls,two dimensions,another bound,snooze,discard,current}'::text[])
what;
SELECT count(jobqueue.enqueue('ba_tasks', jsonb_build_object('n', n))) FROM generate_series(1, 3) n;
SELECT count(jobqueue.enqueue('ba_void')) FROM generate_series(1, 2) n;
SELECT type, payload, status, attempts, max_attempts, result, last_sqlstate,
	last_error FROM jobqueue.drain() ORDER BY id;
ROLLBACK;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers WHERE type LIKE 'ba\_%';
