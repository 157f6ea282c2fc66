-- enqueue_flow: a whole graph in one call; and who may make its tasks wait for which
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE f_effects (n bigserial, what text, parents text);
CREATE FUNCTION f_note(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.f_effects (what, parents)
		SELECT payload->>'n', string_agg(concat_ws(' ', coalesce(r.name, '-'), r.status, r.result),
			', ' ORDER BY r.name) FROM jobqueue.parent_results() r;
	RETURN payload->>'n';
END $$;
SELECT jobqueue.register_handler('f-note', 'f_note(jsonb)', max_attempts => 1);

-- an object: returned by name; each one knows what it waited for
SELECT jobqueue.enqueue('f-note', '{"n": "before"}') AS before \gset
SELECT jsonb_object_agg(name, id) AS ids FROM jobqueue.enqueue_flow(format($$
	{"report":  {"type": "f-note", "payload": {"n": "report"}, "after": ["load a", "load b"]},
	 "load a":  {"type": "f-note", "payload": {"n": "load a"}, "after": ["extract"]},
	 "load b":  {"type": "f-note", "payload": {"n": "load b"}, "after": ["extract", %s, "extract"]},
	 "extract": {"type": "f-note", "payload": {"n": "extract"}}}
$$, :before)::jsonb) \gset
SELECT status, result FROM jobqueue.wait_for((:'ids'::jsonb->>'report')::bigint, '60 s');
SELECT what, parents FROM f_effects ORDER BY what;
SELECT string_agg(key, ',' ORDER BY value::bigint) FROM jsonb_each_text(:'ids');
-- an array: in its order; what there is to say of each
SELECT string_agg(name, ',') FROM jobqueue.enqueue_flow('[{"name": "z", "type": "f-none", "after": ["b"]}, {"name": '
	'"b", "type": "f-none"}, {"name": "a", "type": "f-none", "after": ["z"]}]');
CREATE TEMP TABLE f_ids AS SELECT * FROM jobqueue.enqueue_flow($$[
		{"name": "all", "type": "f-none", "payload": [1], "queue": "f-queue", "priority": -5,
			"run_at": "2100-01-01 00:00:00+00", "max_attempts": 3,
		 "timeout": "90 s", "group_key": "g", "metadata": {"m": null}, "on_parent_failure": "run"},
		{"name": "nulls", "type": "f-none", "payload": null, "queue": null, "priority": null, "run_at": null,
			"delay": null, "max_attempts": null,
		 "timeout": null, "group_key": null, "after": null, "on_parent_failure": null},
		{"name": "delay", "type": "f-none", "delay": "0", "after": ["all"]}]$$);
SELECT name, status, payload, queue, priority, run_at AT TIME ZONE 'UTC' > '2099-12-31', max_attempts, timeout,
	group_key, metadata, created_by = current_user AS mine
	FROM f_ids JOIN jobqueue.tasks USING (id) ORDER BY name;
SELECT count(*) FROM jobqueue.enqueue_flow('{}');
SELECT count(*) FROM jobqueue.enqueue_flow('[]');
SELECT jobqueue.purge_queue('default'), jobqueue.purge_queue('f-queue');

-- a batch with a closing task
SELECT max(id) AS closing FROM jobqueue.enqueue_flow((SELECT jsonb_object_agg('part ' || i,
	jsonb_build_object('type', 'f-note', 'payload', jsonb_build_object('n', 'part')))
	|| jsonb_build_object('closing', jsonb_build_object('type', 'f-note', 'payload', '{"n": "closing"}'::jsonb, 'after',
	jsonb_agg('part ' || i))) FROM generate_series(1, 300) i))
	WHERE name = 'closing' \gset
SELECT status FROM jobqueue.wait_for(:closing, '60 s');
SELECT count(*) FILTER (WHERE what = 'part'), min(n) FILTER (WHERE what = 'closing') > max(n) FILTER
	(WHERE what = 'part') FROM f_effects;
SELECT cardinality(string_to_array(parents, ', ')) FROM f_effects WHERE what = 'closing';

-- refused, with the name of the task
CREATE FUNCTION pg_temp.flow(flow text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.try(format('SELECT count(*) FROM jobqueue.enqueue_flow(%L)', flow))
$$;
SELECT pg_temp.flow(NULL);
SELECT pg_temp.flow(f) FROM unnest(ARRAY[
	'1', '"a"', 'null',
	'{"a": 1}', '{"a": {}}', '{"": {"type": "x"}}', '[1]', '[{"type": "x"}]', '[{"name": 5, "type": "x"}]',
		'[{"name": "", "type": "x"}]',
	'[{"name": "a", "type": "x"}, {"name": "a", "type": "x"}]',
	'{"a": {"type": 5}}', '{"a": {"type": ""}}', '{"a": {"type": "x", "typ": 1}}',
		'{"a": {"type": "x", "unique_key": "k"}}',
	'{"a": {"type": "x", "queue": ""}}', '{"a": {"type": "x", "queue": ["q"]}}',
		'{"a": {"type": "x", "priority": 40000}}', '{"a": {"type": "x", "priority": 1.5}}',
	'{"a": {"type": "x", "priority": 1e100}}', '{"a": {"type": "x", "priority": "5"}}',
		'{"a": {"type": "x", "max_attempts": 0}}', '{"a": {"type": "x", "run_at": "soon"}}',
	'{"a": {"type": "x", "run_at": "infinity"}}', '{"a": {"type": "x", "run_at": "2100-01-01 UTC", "delay": "1 s"}}',
		'{"a": {"type": "x", "delay": "a while"}}', '{"a": {"type": "x", "delay": "-1 s"}}',
	'{"a": {"type": "x", "delay": "400000 years"}}', '{"a": {"type": "x", "timeout": "0"}}',
		'{"a": {"type": "x", "group_key": 1}}', '{"a": {"type": "x", "on_parent_failure": "explode"}}',
	'{"a": {"type": "x", "after": "b"}}', '{"a": {"type": "x", "after": [true]}}',
		'{"a": {"type": "x", "after": [null]}}', '{"a": {"type": "x", "after": [0]}}',
			'{"a": {"type": "x", "after": [1.5]}}',
	'{"a": {"type": "x", "after": ["b"]}}', '{"a": {"type": "x", "after": [9000000000000000000]}}',
	'{"a": {"type": "x", "after": ["a"]}}',
		'{"a": {"type": "x", "after": ["b"]}, "b": {"type": "x", "after": ["c"]}, "c": {"type": "x", "after": ["d", '
		'"b"]}, "d": {"type": "x"}}']) f;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'x';

-- whose tasks: one's own, and those in queues that one works on
CREATE ROLE f_one;
CREATE ROLE f_two;
SELECT jobqueue.grant_access('f_one', 'producer', 'f-one'), jobqueue.grant_access('f_two', 'producer', 'f-two'),
	jobqueue.grant_access('f_two', 'producer', 'f-one');
SET ROLE f_one;
SELECT jobqueue.enqueue('f-none', queue => 'f-one') AS theirs \gset
RESET ROLE;
SET ROLE f_two;
SELECT jobqueue.enqueue('f-none', queue => 'f-two') AS own \gset
SELECT jobqueue.enqueue('f-none', queue => 'f-two', after => ARRAY[:own]) > 0;
SELECT regexp_replace(pg_temp.try(format('SELECT jobqueue.enqueue(%L, queue => %L, after => ARRAY[%s, %s])', 'f-none',
	'f-two', :own, :theirs)), '\d+,', 'N,');
SELECT regexp_replace(
	pg_temp.try(format('SELECT count(*) FROM jobqueue.enqueue_many(%L, %L, queue => %L, after => ARRAY[%s])', 'f-none',
		'{"{}"}', 'f-two', :theirs)), '\d+,', 'N,');
SELECT regexp_replace(pg_temp.flow(format('{"a": {"type": "f-none", "queue": "f-two", "after": [%s]}}', :theirs)),
	'\d+,', 'N,');
SELECT pg_temp.flow('{"a": {"type": "f-none", "queue": "f-three"}}');
SELECT pg_temp.flow('{"a": {"type": "f-none"}}');
SELECT count(*)
	FROM jobqueue.enqueue_flow('{"a": {"type": "f-none", "queue": "f-two"}, "b": {"type": "f-none", "queue": '
		'"f-one", "after": ["a"]}}');
SELECT pg_temp.try('SELECT * FROM jobqueue.parent_results(1, 1)');
SELECT pg_temp.try('SELECT count(*) FROM jobqueue.dependencies'), pg_temp.try('SELECT count(*) FROM jobqueue.parents');
RESET ROLE;
SELECT jobqueue.grant_access('f_two', 'consumer', 'f-one');
SET ROLE f_two;
SELECT jobqueue.enqueue('f-none', queue => 'f-two', after => ARRAY[:theirs]) > 0;
RESET ROLE;
SELECT jobqueue.limit_role('f_one', max_payload => 20);
SET ROLE f_one;
SELECT pg_temp.flow('{"a": {"type": "f-none", "queue": "f-one", "payload": "a payload that is too long"}}');
RESET ROLE;

SELECT jobqueue.purge_queue('f-one') + jobqueue.purge_queue('f-two') > 0;
SELECT jobqueue.limit_role('f_one'), jobqueue.revoke_access('f_one', 'producer'),
	jobqueue.revoke_access('f_two', 'producer'), jobqueue.revoke_access('f_two', 'consumer');
DROP ROLE f_one, f_two;
SELECT jobqueue.unregister_handler('f-note');
DROP TABLE f_effects;
DROP FUNCTION f_note;
DELETE FROM jobqueue.tasks;
