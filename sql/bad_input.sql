-- What people may pass by mistake: each function says what is wrong, and with the right SQLSTATE; never an internal
-- error
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
SET TimeZone = 'UTC';

CREATE FUNCTION x_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.register_handler('x-handled', 'x_handler(jsonb)', queue => 'x-paused');
SELECT jobqueue.pause_queue('x-paused');

-- What a call says: an error, null, true or false, or just "ok". Undone, and noted: what is said of us must be no
-- internal error.
CREATE TEMPORARY TABLE said (command text, outcome text);
CREATE FUNCTION pg_temp.say(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	outcome text;
BEGIN
	BEGIN
		EXECUTE 'SELECT jobqueue.' || command INTO outcome;
		RAISE EXCEPTION USING ERRCODE = 'UNDO0', MESSAGE = CASE WHEN outcome IS NULL THEN 'null' WHEN outcome
			IN ('true', 'false', '0') THEN outcome ELSE 'ok' END;
	EXCEPTION
		WHEN SQLSTATE 'UNDO0' THEN outcome := sqlerrm;
		WHEN OTHERS THEN outcome := sqlstate || ': ' || sqlerrm;
	END;
	outcome := regexp_replace(outcome, 'x{100,}', 'xxx...');
	INSERT INTO said VALUES (command, outcome);
	RETURN outcome;
END $$;
-- Each of some calls with each of some values, grouped: many say the same.
CREATE FUNCTION pg_temp.table_of(calls text[], vals text[]) RETURNS TABLE (call text, outcome text, which text)
	LANGUAGE sql AS $$
	SELECT c.call, o.outcome, string_agg(v.val, ' | ' ORDER BY v.n)
	FROM unnest(calls) WITH ORDINALITY c(call, n), unnest(vals) WITH ORDINALITY v(val, n),
	LATERAL pg_temp.say(replace(c.call, '#', v.val)) o(outcome)
	GROUP BY c.n, c.call, o.outcome ORDER BY c.n, min(v.n)
$$;

-- nulls where something must be said
SELECT * FROM pg_temp.table_of(ARRAY[
	'enqueue(#)', 'enqueue(''x'', #)', 'enqueue(''x'', priority => #)', 'enqueue_many(#, ''{1}'')',
		'enqueue_many(''x'', #)', 'enqueue_many(''x'', ''{1}'', priority => #)',
	'claim(max_tasks => #)', 'claim(lease => #)', 'complete(#, 1)', 'complete(1, #)', 'complete_many(#, ''{1}'')',
		'complete_many(''{1}'', #)', 'fail(#, 1, ''x'')', 'fail(1, #, ''x'')', 'fail(1, 1, #)',
	'fail(1, 1, ''x'', retryable => #)', 'extend_lease(#, 1)', 'extend_lease(1, #)', 'extend_lease(1, 1, #)',
		'release(#, 1)', 'release(1, #)', 'snooze(#, 1, ''1 s'')', 'snooze(1, #, ''1 s'')',
	'snooze(1, 1, #)', 'discard(#, 1, ''x'')', 'discard(1, #, ''x'')', 'discard(1, 1, #)', 'set_progress(#, 1, 0.5)',
		'set_progress(1, #, 0.5)', 'set_progress(1, 1, #)', 'snooze(#)', 'discard(#)',
	'set_progress(#)', 'wait_for(#)', 'cancel(#)', 'retry(#)', 'retry(1, #)', 'purge_queue(#)',
		'drain(include_scheduled => #)', 'drain(raise_errors => #)', 'register_handler(#, ''x_handler(jsonb)'')',
	'register_handler(''x'', #)', 'register_handler(''x'', ''x_handler(jsonb)'', queue => #)',
		'register_handler(''x'', ''x_handler(jsonb)'', run_as => #)',
			'register_handler(''x'', ''x_handler(jsonb)'', max_attempts => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', backoff => #)',
		'register_handler(''x'', ''x_handler(jsonb)'', first_delay => #)',
			'register_handler(''x'', ''x_handler(jsonb)'', max_delay => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', jitter => #)',
		'register_handler(''x'', ''x_handler(jsonb)'', batch_size => #)', 'alter_handler(#)', 'unregister_handler(#)',
			'grant_access(#, ''producer'')', 'revoke_access(''postgres'', #)'], '{"NULL"}');
-- nulls where nothing need be said
SELECT * FROM pg_temp.table_of(ARRAY[
	'enqueue(''x'', queue => #, run_at => #, delay => #, max_attempts => #, timeout => #, metadata => #)',
		'claim(NULL, types => #, claimed_by => #)', 'complete(1, 1, #)', 'complete_many(''{1}'', ''{1}'', #)',
	'fail(1, 1, ''x'', #, #)', 'set_progress(1, 1, 0.5, #)', 'cancel(1, #)', 'drain(#, #)', 'wait_for(-1, #)',
		'alter_handler(''x-handled'', #, #, #, #, #, #, #, #, #, #, #, #, #)',
	'register_handler(''x'', ''x_handler(jsonb)'', backoff_function => #, timeout => #, discard_sqlstates => #, '
	'dead_letter_queue => #)'], '{"NULL"}');

-- names: empty, as long as may be, longer, odd
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(#)', 'enqueue_many(#, ''{1}'')',
	'register_handler(#, ''x_handler(jsonb)'')', 'alter_handler(#, max_attempts => 1)', 'unregister_handler(#)',
		'claim(types => ARRAY[#])', 'cancel_tasks(type => #)'],
	ARRAY[$$''$$, $$' '$$, $$repeat('x', 63)$$, $$repeat('x', 64)$$, $$repeat('x', 100000)$$, $$'"''\ %s $1'$$,
		$$E'\n\t\u0001'$$, $$'ünïcode 🙂'$$, $$'NULL'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(''x'', queue => #)', 'enqueue_many(''x'', ''{1}'', queue => #)',
	'claim(#)', 'drain(#)', 'pause_queue(#)', 'resume_queue(#)', 'purge_queue(#)', 'cancel_tasks(#)', 'retry_failed(#)',
		'delete_tasks(#)',
	'register_handler(''x'', ''x_handler(jsonb)'', queue => #)', 'alter_handler(''x-handled'', queue => #)',
		'register_handler(''x'', ''x_handler(jsonb)'', dead_letter_queue => #)',
			'alter_handler(''x-handled'', dead_letter_queue => #)'],
	ARRAY[$$''$$, $$' '$$, $$repeat('x', 63)$$, $$repeat('x', 64)$$, $$repeat('ä', 31)$$, $$repeat('ä', 32)$$,
		$$'"''\ %s $1'$$, $$E'\n\t\u0001'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['register_handler(''x'', ''x_handler(jsonb)'', run_as => #)',
	'alter_handler(''x-handled'', run_as => #)', 'grant_access(#, ''producer'')', 'revoke_access(#, ''producer'')'],
	ARRAY[$$''$$, $$'x no such role'$$, $$'public'$$, $$repeat('x', 64)$$, $$'x"y''z'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['claim(claimed_by => #)', 'fail(1, 1, #)', 'discard(1, 1, #)', 'cancel(-1, #)',
	'set_progress(1, 1, 0.5, #)'], ARRAY[$$''$$, $$repeat('ä', 100000)$$, $$'"''\ %s $1'$$]);

-- durations: negative, none, tiny, huge, beyond the end of time
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(''x'', delay => #)', 'enqueue(''x'', timeout => #)',
	'enqueue_many(''x'', ''{1}'', delay => #)', 'enqueue_many(''x'', ''{1}'', timeout => #)', 'claim(lease => #)',
		'extend_lease(1, 1, #)',
	'fail(1, 1, ''x'', retry_in => #)', 'snooze(1, 1, #)', 'snooze(#)',
		'register_handler(''x'', ''x_handler(jsonb)'', first_delay => #)',
			'register_handler(''x'', ''x_handler(jsonb)'', max_delay => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', timeout => #)', 'alter_handler(''x-handled'', first_delay => #)',
		'alter_handler(''x-handled'', max_delay => #)', 'alter_handler(''x-handled'', timeout => #)',
			'wait_for(-1, #)'],
	ARRAY[$$'-1 microsecond'$$, $$'-178000000 years'$$, $$'1 mon -32 days'$$, $$'0'$$, $$'1 microsecond'$$,
		$$'1 day -23 hours'$$, $$'290000 years'$$, $$'300000 years'$$, $$'178000000 years'$$, $$'2147483647 days'$$,
			$$'2562047788 hours'$$]);
-- up to the last moment that there is: what is stored can be read, and dumped
CREATE FUNCTION pg_temp.until_the_end(microseconds integer) RETURNS interval LANGUAGE sql AS $$
	SELECT '294276-12-31 23:59:59.999999+00'::timestamptz - clock_timestamp() - microseconds * interval '1 microsecond'
$$;
SELECT count(jobqueue.enqueue('x-end', queue => 'x-end')) FROM generate_series(1, 300);
SELECT DISTINCT o FROM generate_series(0, 150) n, LATERAL
	pg_temp.try(format('SELECT jobqueue.enqueue(''x-end'', delay => pg_temp.until_the_end(%s)) > 0', n)) o
		WHERE o !~ '^(true$|22008:)';
SELECT DISTINCT o FROM generate_series(0, 150) n, LATERAL
	pg_temp.try(format('SELECT id > 0 FROM jobqueue.claim(''x-end'', lease => pg_temp.until_the_end(%s))', n)) o
		WHERE o !~ '^(true$|22008:)';
SELECT count(*) > 0 FROM jobqueue.claim('x-end', 150);
SELECT DISTINCT o FROM jobqueue.tasks, LATERAL pg_temp.try(
	format('SELECT jobqueue.fail(%s, 1, ''x'', retry_in => pg_temp.until_the_end(%s))', id, id % 150)) o
		WHERE status = 'processing' AND o !~ '^(scheduled$|22008:)';
SELECT count(*) FROM jobqueue.tasks WHERE greatest(run_at, lease_expires_at) > '294276-12-31 23:59:59.999999+00';
SELECT count(*) FROM jobqueue.tasks t WHERE pg_temp.try(
	format('SELECT t::text::jobqueue.tasks FROM jobqueue.tasks t WHERE id = %s', id)) LIKE '22%';
DELETE FROM jobqueue.tasks;

-- moments
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(''x'', run_at => #)', 'enqueue_many(''x'', ''{1}'', run_at => #)',
	'retry(-1, #)', 'enqueue(''x'', run_at => #, delay => ''1 s'')'],
	ARRAY[$$'infinity'$$, $$'-infinity'$$, $$'4714-11-24 00:00+00 BC'$$, $$'294276-12-31 23:59:59.999999+00'$$,
		$$'epoch'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['cancel_tasks(since => #)', 'cancel_tasks(until => #)', 'retry_failed(since => #)',
	'delete_tasks(until => #)'],
	ARRAY[$$'infinity'$$, $$'-infinity'$$, $$'4714-11-24 00:00+00 BC'$$, $$'294276-12-31 23:59:59.999999+00'$$]);

-- numbers
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(''x'', priority => #)', 'enqueue(''x'', max_attempts => #)',
	'enqueue_many(''x'', ''{1}'', priority => #)', 'enqueue_many(''x'', ''{1}'', max_attempts => #)',
		'claim(max_tasks => #)', 'drain(max_tasks => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', max_attempts => #)',
		'alter_handler(''x-handled'', max_attempts => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', batch_size => #)', 'alter_handler(''x-handled'', batch_size => #)',
		'cancel_tasks(''x'', max_tasks => #)', 'retry_failed(''x'', max_tasks => #)',
			'delete_tasks(''x'', max_tasks => #)'],
	ARRAY['-2147483648', '-32769', '-32768', '-1', '0', '1', '32767', '32768', '100000', '100001', '1000000', '1000001',
		'2147483647']);
SELECT * FROM pg_temp.table_of(ARRAY['set_progress(1, 1, #)', 'set_progress(#)',
	'register_handler(''x'', ''x_handler(jsonb)'', jitter => #)', 'alter_handler(''x-handled'', jitter => #)'],
	ARRAY['0', '1', '-0.001', '1.001', '1e30', $$'NaN'$$, $$'Infinity'$$, $$'-Infinity'$$]);

-- tasks and attempts that do not exist
SELECT * FROM pg_temp.table_of(ARRAY['complete(#)', 'fail(#, ''x'')', 'extend_lease(#)', 'release(#)',
	'snooze(#, ''1 s'')', 'discard(#, ''x'')', 'set_progress(#, 0.5)'],
	ARRAY['-1, 1', '0, 0', '9223372036854775807, 2147483647', '-9223372036854775808, -2147483648',
		'jobqueue.enqueue(''x''), 0']);
SELECT * FROM pg_temp.table_of(ARRAY['cancel(#)', 'retry(#)', 'wait_for(#)'],
	ARRAY['-1', '0', '9223372036854775807', '-9223372036854775808']);

-- SQLSTATEs
SELECT * FROM pg_temp.table_of(ARRAY['fail(1, 1, ''x'', sqlstate => #)',
	'register_handler(''x'', ''x_handler(jsonb)'', discard_sqlstates => ARRAY[#])',
		'alter_handler(''x-handled'', discard_sqlstates => ARRAY[''22012'', #])'],
	ARRAY[$$'22012'$$, $$'XY123'$$, $$'22'$$, $$''$$, $$NULL$$, $$'2201'$$, $$'220122'$$, $$'2201a'$$, $$'p0001'$$,
		$$'22 12'$$, $$'ä2012'$$, $$'2201ä'$$, $$'äÄ'$$, $$repeat('2', 1000000)$$, $$'00000'$$]);

-- arrays: with nulls, of several dimensions, from elsewhere than 1, of different lengths
SELECT * FROM pg_temp.table_of(ARRAY['enqueue_many(''x'', #)', 'claim(types => #)', 'complete_many(#, ''{1}'')',
	'complete_many(''{1}'', #)', 'complete_many(''{1}'', ''{1}'', #)',
		'register_handler(''x'', ''x_handler(jsonb)'', discard_sqlstates => #)'],
	ARRAY[$$'{}'$$, $$'{NULL}'$$, $$'{11,NULL}'$$, $$'{11}'$$, $$'{11,22}'$$, $$'{{11,22},{11,22}}'$$, $$'{{{11}}}'$$,
		$$'[0:0]={11}'$$, $$'[-5:-4]={11,22}'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['complete_many(#)'], ARRAY[$$'{1,2}', '{1}'$$, $$'{}', '{}', '{1}'$$, $$'{1,2}',
	'{1,1}', '{1}'$$, $$'{{1,2}}', '{1,2}', '{{1},{2}}'$$, $$'{1,1,1}', '{1,1,1}', ARRAY[NULL, '1', NULL]::jsonb[]$$]);
SELECT count(*) FROM jobqueue.enqueue_many('x', '[7:8][2:3]={{1,2},{3,4}}');
SELECT payload FROM jobqueue.tasks ORDER BY id;
SELECT count(*) FROM jobqueue.claim(types => '{{a,x},{b,c}}', max_tasks => 10);
SELECT count(*) FROM (SELECT jobqueue.complete_many(ids, attempts, array_fill('1'::jsonb, ARRAY[2, 2]))
	FROM (SELECT array_agg(id) AS ids, array_agg(attempts) AS attempts FROM jobqueue.tasks) t) u;
DELETE FROM jobqueue.tasks;

-- payloads: null, deep, large, odd
SELECT * FROM pg_temp.table_of(ARRAY['enqueue(''x'', #)', 'enqueue(''x'', metadata => #)',
	'enqueue_many(''x'', ARRAY[#]::jsonb[])', 'complete(1, 1, #)'],
	ARRAY[$$'null'$$, $$'""'$$, $$(repeat('[', 5000) || repeat(']', 5000))::jsonb$$, $$to_jsonb(repeat('x', 5000000))$$,
		$$(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 10000) n)$$, $$'{"": {"a\u0001": 1e1000}}'$$]);

-- handlers
SELECT * FROM pg_temp.table_of(ARRAY['register_handler(''x'', #)',
	'register_handler(''x'', ''x_handler(jsonb)'', backoff_function => #)', 'alter_handler(''x-handled'', #)',
		'alter_handler(''x-handled'', backoff_function => #)'],
	ARRAY[$$''$$, $$'x_handler'$$, $$'x_no_such(jsonb)'$$, $$0::regprocedure$$, $$4294967295::oid::regprocedure$$,
		$$'-'$$, $$'jobqueue.version()'$$, $$'pg_catalog.int4pl(integer, integer)'$$, $$'pg_catalog.sum(integer)'$$]);
SELECT * FROM pg_temp.table_of(ARRAY['register_handler(''x'', ''x_handler(jsonb)'', backoff => #)',
	'alter_handler(''x-handled'', backoff => #)', 'cancel_tasks(status => #)', 'delete_tasks(status => #)',
		'grant_access(''postgres'', #)', 'revoke_access(''postgres'', #)'],
	ARRAY[$$''$$, $$' fixed'$$, $$'FIXED'$$, $$'none'$$, $$repeat('x', 1000)$$]);

-- two that exclude each other, or make no sense
SELECT call, pg_temp.say(call) FROM unnest(ARRAY[
	$$enqueue('x', run_at => now(), delay => '0')$$, $$cancel_tasks()$$, $$retry_failed()$$, $$delete_tasks()$$,
		$$claim('x', types => '{}')$$, $$alter_handler('x-handled')$$, $$alter_handler('x-unknown')$$,
	$$register_handler('x', 'x_handler(jsonb)', first_delay => '1 hour', max_delay => '1 s')$$,
		$$register_handler('x', 'x_handler(jsonb)', queue => 'x', dead_letter_queue => 'x')$$]) call;

-- it was all undone; and nothing of it was an internal error
SELECT count(*) FROM jobqueue.tasks;
SELECT type, max_attempts FROM jobqueue.handlers;
SELECT count(*) > 500 FROM said;
SELECT * FROM said WHERE outcome ~ '^(XX|58|53|0A)';
SELECT jobqueue.unregister_handler('x-handled');
DELETE FROM jobqueue.queues;
DROP FUNCTION x_handler;
DELETE FROM jobqueue.tasks;
