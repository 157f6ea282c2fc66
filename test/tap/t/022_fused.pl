# Fused batches: short tasks share a transaction, and their effects are the same as if they ran alone.
#
# - the same tasks on two servers, one with jobqueue.fused_time = 0, one that fuses from the first task on: the rows of
#   jobqueue.tasks, the effects, and the lines in the log must be the same. Handlers that fail, snooze, discard, cancel,
#   enqueue, look at themselves, leave something behind, fail at the commit, use many subtransactions; procedures, tasks
#   with unique_key, timeout or an earlier failure. That they were fused, and those not, shows by their transaction ids
# - a task that waits for a lock, or takes long, is run alone, uncharged, even if it catches interrupts; others do not
#   wait
# - a session that waits for a lock of a batch does not wait for the end of the batch; there are no deadlock victims
# - pg_terminate_backend, kill -9, a crash in C, fast and immediate stop in the middle of a group: the running task
#   alone is charged, nothing is lost, nothing happens twice
# - settings, wait_for, NOTIFY
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# A group of the one server may take so long that on a slow machine, too, all tasks of a round are in one.
my %settings = (autovacuum => 'off', restart_after_crash => 'on', 'jobqueue.max_workers' => 1,
	'jobqueue.fused_after' => 0);
my %node = (
	durable => start_node('durable', %settings, 'jobqueue.fused_time' => 0),
	fused => start_node('fused', %settings, 'jobqueue.fused_time' => 1000));
my @modes = ('durable', 'fused');
my $node = $node{fused};

sub sql {
	my ($sql, $node_) = @_;
	return ($node_ // $node)->safe_psql('app', "SET client_min_messages = error;\n$sql",
		extra_params => [ '-U', 'app' ]);
}

sub both {
	my ($sql) = @_;
	sql($sql, $node{$_}) for @modes;
}

for my $mode (@modes) {
	create_queue($node{$mode}, 'app');
	$node{$mode}->safe_psql('app', <<'SQL');
	CREATE ROLE app LOGIN;
	CREATE ROLE other LOGIN;
	CREATE ROLE hasty LOGIN;
	GRANT other, hasty TO app;
	ALTER ROLE hasty SET statement_timeout = '400ms';
	GRANT ALL ON SCHEMA public TO app, other, hasty;
	GRANT TEMP ON DATABASE app TO app, other;
	GRANT pg_signal_backend TO app;
	SELECT jobqueue.grant_access(r, a) FROM unnest('{app,hasty}'::name[]) r, unnest('{manager,producer}'::text[]) a;
	CREATE FUNCTION bad_crash(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
SQL
}
both(<<'SQL');
	CREATE TABLE effects (task bigint, n int, type text, attempts int, what text, xid xid8 DEFAULT pg_current_xact_id(),
		seen jsonb,
		pid int DEFAULT pg_backend_pid(), seq bigserial);
	GRANT ALL ON effects, effects_seq_seq TO other, hasty;
	CREATE FUNCTION note(task jobqueue.tasks, what text, seen jsonb DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
		INSERT INTO public.effects (task, n, type, attempts, what, seen)
		VALUES (task.id, (task.payload->>'n')::int, task.type, task.attempts, what, seen)
	$$;
	-- What a task can see of those before it.
	CREATE FUNCTION look() RETURNS jsonb LANGUAGE sql AS $$
		SELECT jsonb_build_object(
			'settings', (SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name COLLATE "C"))
				FROM pg_catalog.pg_settings WHERE name <> 'transaction_deferrable'),
			'some', (SELECT jsonb_object_agg(name, setting) FROM pg_catalog.pg_settings
				WHERE name IN ('lock_timeout', 'statement_timeout', 'deadlock_timeout', 'transaction_isolation',
					'transaction_read_only', 'work_mem', 'TimeZone', 'search_path', 'synchronous_commit')),
			'own', nullif(current_setting('my.own', true), ''),
			'who', format('%s %s %s', session_user, current_user, current_setting('role')),
			'temporary', (SELECT array_agg(relname ORDER BY relname) FROM pg_catalog.pg_class
				WHERE relnamespace = pg_my_temp_schema()),
			'prepared', (SELECT array_agg(name) FROM pg_catalog.pg_prepared_statements WHERE from_sql),
			'cursors', (SELECT array_agg(name) FROM pg_catalog.pg_cursors WHERE is_holdable OR name LIKE 'left%'),
			'locks', (SELECT count(*) FROM pg_catalog.pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'))
	$$;
	CREATE FUNCTION plain(task jobqueue.tasks) RETURNS jsonb LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.note(task, 'plain', public.look());
		RETURN jsonb_build_object('n', task.payload->'n');
	END $$;
	SELECT jobqueue.register_handler('plain', 'plain(jobqueue.tasks)', max_attempts => 1);
	CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, task bigint);
	INSERT INTO account (id) SELECT generate_series(1, 100);
	-- Constraints that are looked at when the transaction commits.
	CREATE TABLE checked (task bigint, bad boolean);
	CREATE TABLE once_deferred (x int UNIQUE DEFERRABLE INITIALLY DEFERRED);
	CREATE TABLE once (x int CONSTRAINT once_x UNIQUE DEFERRABLE INITIALLY IMMEDIATE);
	-- What has been begun, whatever becomes of it.
	CREATE SEQUENCE begun MINVALUE 0 START 0;
	SELECT nextval('begun');
	GRANT ALL ON begun TO hasty;
	CREATE TABLE gate (name text);
	GRANT ALL ON gate TO hasty;
SQL
both($check_at_commit);

# A type with a handler of this body, of both servers.
sub handler {
	my ($type, $body, %how) = @_;
	my $kind = $how{procedure} ? 'PROCEDURE' : 'FUNCTION';
	my $returns = $how{procedure} ? '' : 'RETURNS ' . ($how{returns} // 'jsonb');
	$body = "BEGIN $body END" unless $body =~ /^\s*(DECLARE|BEGIN)\b/;
	both("CREATE $kind h_$type(task jobqueue.tasks) $returns LANGUAGE plpgsql AS \$handler\$ $body \$handler\$;"
		  . "SELECT jobqueue.register_handler('$type', 'h_$type(jobqueue.tasks)'"
		  . ($how{options} ? ", $how{options}" : '') . ')');
}

# Enqueues tasks of these types while nothing is run, and then lets them run. Payloads: n, the number in this list, and
# more.
sub fill {
	my ($node_, $types, $more) = @_;
	my $values = join ', ', map { "($_, '$types->[$_ - 1]')" } 1 .. @$types;
	return split /\n/, sql(<<SQL, $node_);
		SELECT FROM jobqueue.pause_queue(NULL);
		SELECT jobqueue.enqueue(type, jsonb_build_object('n', n) || '@{[ $more // '{}' ]}')
			FROM (VALUES $values ORDER BY 1) v (n, type);
SQL
}

sub resume {
	my ($node_) = @_;
	eval { $node_->psql('app', 'SELECT FROM jobqueue.resume_queue(NULL)') }; # the server may crash before it can say so
}

# Until all have come to rest: what is left in tasks_live is a dead letter, or waits for more than a minute.
my $rest = "SELECT count(*) FROM jobqueue.tasks_live
	WHERE (status IN ('pending', 'processing') OR run_at < now() + interval '1 minute') AND queue <> 'dead'";

sub at_rest {
	my ($node_, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_sql($node_, 'app', $rest, 0, "$name: all are done")
	  || diag $node_->safe_psql('app', 'SELECT t FROM jobqueue.tasks_live t ORDER BY id LIMIT 5');
}

# All that may be seen of these tasks afterwards. Numbers of processes and tasks are N.
sub rows {
	my ($node_, $first) = @_;
	return sql(<<SQL, $node_);
		SELECT concat_ws(' ', type, payload->>'n', payload->>'child', status,
			attempts || '/' || coalesce(max_attempts::text, '-'),
			coalesce(last_sqlstate, '-'), coalesce(last_error, '-'),
			'result ' || coalesce(regexp_replace(result::text, 'worker [0-9a-f.]+', 'worker N', 'g'), '-'),
			'crashes ' || crashes, CASE WHEN run_at IS NULL THEN 'no run_at'
				WHEN run_at > now() + interval '50 minutes' THEN 'in an hour' ELSE 'run_at' END,
			'by ' || coalesce(regexp_replace(claimed_by, 'worker [0-9a-f.]+', 'worker N'), '-'),
				CASE WHEN processed_at BETWEEN created_at AND clock_timestamp() THEN 'processed' END,
			CASE WHEN finished_at BETWEEN processed_at AND clock_timestamp() THEN 'finished' WHEN finished_at IS
				NOT NULL THEN 'finished?' END,
			CASE WHEN updated_at BETWEEN coalesce(processed_at, created_at) AND clock_timestamp() THEN 'updated' END,
			lease_expires_at, progress, progress_message, queue, origin_queue, created_by,
			regexp_replace(tableoid::regclass::text, '_\\d\$', ''),
			(SELECT string_agg(regexp_replace((f - 'started_at' - 'seconds')::text, '(worker|task) [0-9a-f.]+',
				'\\1 N', 'g'), ', ') FROM jsonb_array_elements(failures) f))
		FROM jobqueue.tasks WHERE id >= $first ORDER BY type, (payload->>'n')::int, id
SQL
}

sub effects {
	my ($node_, $first) = @_;
	return sql("SELECT concat_ws(' ', type, n, attempts, what, seen - 'settings') FROM effects WHERE task >= "
		. "$first ORDER BY n, type, attempts, what", $node_);
}

# The lines that workers wrote, without times and numbers.
sub lines {
	my ($node_, $offset) = @_;
	return join "\n", sort map { s/^.*?jobqueue worker: //r =~ s/\d+/N/gr } log_matches($node_,
		qr/jobqueue worker: (?:NOTICE|LOG|WARNING|ERROR|FATAL|PANIC|DEBUG)/, $offset);
}

# A worker that knows nothing of any type.
sub fresh_worker {
	my ($node_) = @_;
	my $workers = q[SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue worker'];
	$node_->safe_psql('postgres', $workers =~ s/count\(\*\)/pg_terminate_backend(pid)/r);
	poll_sql($node_, 'postgres', $workers, 0) or die 'the worker does not end';
}

my $plain_seen = {};
my $cautious = 1;

# One round: ten plain tasks around two of the type, unless there is a list. shared: whether those must have shared a
# transaction with another task (1), may not have (0), may have (undef). groups: at most so many transactions of plain
# tasks. expect: what becomes of the type's tasks, a regular expression for each line.
sub compare {
	my ($type, %how) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $what = $how{name} // $type;
	my (%rows, %effects, %lines);
	my $types = $how{types} // [ ('plain') x 4, $type, ('plain') x 4, $type, ('plain') x 2 ];
	for my $mode (@modes) {
		my $n = $node{$mode};
		if ($mode eq 'fused' && $cautious) { # another worker, which fuses without hesitation
			fresh_worker($n);
			fill($n, [ ('plain') x 20 ]);
			resume($n);
			poll_sql($n, 'app', $rest, 0);
		}
		my $offset = log_size($n);
		my @ids = fill($n, $types, $how{payload});
		my $first = $ids[0];
		my $in_play = join ',', @ids;
		sql($how{before} =~ s/\$list/$in_play/gr, $n) if $how{before};
		$n->safe_psql('app', $how{super} =~ s/\$list/$in_play/gr) if $how{super};
		resume($n);
		at_rest($n, "$what, $mode") or return;
		($rows{$mode}, $effects{$mode}) = (rows($n, $first), effects($n, $first));
		$lines{$mode} = lines($n, $offset);
		my ($tasks, $xids, $groups, $shared) = split /\|/, sql(<<SQL, $n);
			WITH e AS (SELECT DISTINCT task, attempts, type, xid FROM effects WHERE task >= $first)
			SELECT count(*), count(DISTINCT xid), count(DISTINCT xid) FILTER (WHERE type = 'plain'),
				coalesce(bool_or(type = '$type' AND EXISTS (SELECT FROM e o WHERE o.xid = e.xid AND o.task <>
					e.task))::int, 0)
			FROM e
SQL
		if ($mode eq 'durable') {
			cmp_ok($xids, '>=', $tasks, "$what, durable: a transaction for each task");
		} else {
			$cautious = $groups > 4;
			cmp_ok($groups, '<=', $how{groups} // 7, "$what: its neighbours were fused");
			is($shared, $how{shared}, $how{shared} ? "$what: it was fused" : "$what: it was run alone")
				if defined $how{shared};
		}
		my @seen = split /\n/, sql("SELECT DISTINCT seen FROM effects WHERE task >= $first AND type = 'plain'", $n);
		is(scalar(@seen), 1, "$what, $mode: those after it find nothing of it") or diag join "\n", @seen;
		$plain_seen->{$mode} //= $seen[0];
		is($seen[0], $plain_seen->{$mode}, "$what, $mode: ... nor do those before it of others");
	}
	is($rows{fused}, $rows{durable}, "$what: the same tasks");
	is($effects{fused}, $effects{durable}, "$what: the same effects");
	is($lines{fused}, $lines{durable}, "$what: the same lines in the log") unless $how{other_lines};
	if ($how{expect}) {
		my @lines = grep { /^$type / } split /\n/, $rows{durable};
		my $expect = ref $how{expect} eq 'ARRAY' ? $how{expect} : [ ($how{expect}) x @lines ];
		is(scalar(@lines), scalar(@$expect), "$what: so many tasks");
		like($lines[$_], $expect->[$_], "$what: what becomes of it") for 0 .. $#$expect;
	}
	is(scalar(() = $rows{durable} =~ /^plain .* completed 1\/1 - - /mg), scalar(grep { $_ eq 'plain' } @$types),
		"$what: its neighbours are completed, charged nothing")
	  unless $how{bad_neighbours};
}

# --------------------------------------------------------------------------------------------------------------------
# What becomes of the task

my $hour = "backoff => 'fixed', first_delay => '1 hour', max_delay => '1 hour', jitter => 0";
my $at_once = "backoff => 'fixed', first_delay => '0', jitter => 0";

compare('plain', name => 'nothing special', shared => 1);
handler('fails',
	q[PERFORM note(task, 'x'); RAISE EXCEPTION 'no luck' USING ERRCODE = 'XY123', DETAIL = 'a detail', HINT = 'a ]
		. q[hint';],
	options => 'max_attempts => 1');
compare('fails', expect => qr/ failed 1\/1 XY123 no luck result - crashes 0 .*"detail": "a detail"/);
handler('waits', q[PERFORM note(task, 'x'); RAISE EXCEPTION 'later' USING ERRCODE = 'XY124';], options => $hour);
compare('waits', expect => qr/ scheduled 1\/20 XY124 later result - crashes 0 in an hour /);
handler('retries', q[PERFORM note(task, 'x'); IF task.attempts < 3 THEN PERFORM 1 / 0; END IF; RETURN '"at last"';],
	options => $at_once);
compare('retries', shared => 0,
	expect => qr/ completed 3\/20 22012 division by zero result "at last" .*"attempt": 1, .*"attempt": 2, /);
handler('catches',
	q[PERFORM note(task, 'x'); BEGIN PERFORM note(task, 'y'), 1 / 0; EXCEPTION WHEN division_by_zero THEN PERFORM ]
		. q[note(task, 'z'); END; RETURN 'null';]);
compare('catches', shared => 1, expect => qr/ completed 1\/20 - - /);
handler('notices',
	q[RAISE NOTICE 'noticed'; RAISE WARNING 'warned'; PERFORM note(task, 'x'); PERFORM jobqueue.set_progress(0.5, ]
		. q['half'); RETURN '[1, {"a": null}]';]);
compare('notices', shared => 1, expect => qr/ completed 1\/20 - - result \[1, \{"a": null\}\] /);
handler('says_nothing', q[PERFORM note(task, 'x');], returns => 'void');
compare('says_nothing', shared => 1, expect => qr/ completed 1\/20 - - result - /);
handler('snoozes', q[PERFORM note(task, 'x'); PERFORM jobqueue.snooze('1 hour'); RETURN '"dropped"';],
	options => 'max_attempts => 1');
compare('snoozes', expect => qr/ scheduled 1\/2 - - result - .* in an hour/);
handler('naps',
	q[PERFORM note(task, 'x'); IF task.attempts < 3 THEN PERFORM jobqueue.snooze('0'); END IF; RETURN ]
		. q[to_jsonb(task.attempts);], options => 'max_attempts => 1');
compare('naps', expect => qr/ completed 3\/3 - - result 3 /);
handler('unsays',
	q[PERFORM note(task, 'x'); BEGIN PERFORM jobqueue.snooze('1 hour'), 1 / 0; EXCEPTION WHEN division_by_zero THEN ]
		. q[END; RETURN '1';]);
compare('unsays', shared => 1, expect => qr/ completed 1\/20 - - result 1 /);
handler('snoozes_and_fails', q[PERFORM jobqueue.snooze('1 hour'); PERFORM 1 / 0;], options => 'max_attempts => 1');
compare('snoozes_and_fails', expect => qr/ failed 1\/1 22012 /);
handler('discards', q[PERFORM note(task, 'x'); PERFORM jobqueue.discard('no use');]);
compare('discards', expect => qr/ failed 1\/20 JQ003 no use /);
handler('keeps',
	q[PERFORM note(task, 'x'); BEGIN PERFORM jobqueue.discard('no use'); EXCEPTION WHEN SQLSTATE 'JQ003' THEN END; ]
		. q[RETURN '1';]);
compare('keeps', shared => 1, expect => qr/ completed 1\/20 - - result 1 /);
handler('dies', q[PERFORM 1 / 0;], options => q[max_attempts => 1, dead_letter_queue => 'dead']);
compare('dies', expect => qr/ pending 1\/21 22012 .* dead default /);
handler('discarded', q[PERFORM ('x' || (task.payload->>'n'))::int;], options => q[discard_sqlstates => '{22}']);
compare('discarded', expect => qr/ failed 1\/20 22P02 /);

# What it sees of itself.
handler('sees', <<'SQL');
	DECLARE
		own jobqueue.tasks := jobqueue.current_task();
	BEGIN
		PERFORM note(task, 'x', look());
		RETURN jsonb_build_object('task', to_jsonb(task) - '{id,created_at,updated_at,processed_at}'::text[],
			'different', (SELECT jsonb_agg(key) FROM jsonb_each(to_jsonb(task)) a
				JOIN jsonb_each(to_jsonb(own)) b USING (key) WHERE a.value <> b.value),
			'times', task.processed_at BETWEEN task.created_at AND clock_timestamp()
				AND task.updated_at >= task.created_at,
			'now', now() >= task.created_at, 'id', own.id = task.id);
	END
SQL
compare('sees', shared => 1,
	expect =>
		qr/\ completed\ 1\/20\ -\ -\ result\ (?=.*"different":\ null)(?=.*"times":\ true)(?=.*"status":\ "processing")
		(?=.*"attempts":\ 1)(?=.*"claimed_by":\ "[^"]*worker)/x);
both(<<'SQL');
	CREATE FUNCTION by_payload(payload jsonb) RETURNS bigint LANGUAGE sql AS $$
		SELECT public.note(t, payload->>'n') FROM jobqueue.current_task() t;
		SELECT (payload->>'n')::bigint
	$$;
	SELECT jobqueue.register_handler('by_payload', 'by_payload(jsonb)');
SQL
compare('by_payload', shared => 1, expect => qr/ completed 1\/20 - - result (5|10) /);

# Its own task, and others, cancelled and removed.
handler('gives_up', q[PERFORM note(task, 'x'); RETURN to_jsonb(jobqueue.cancel(task.id, 'my own will'));]);
compare('gives_up', expect => qr/ cancelled 1\/20 - my own will result - /);
handler('cancels_next', <<'SQL');
	DECLARE
		other bigint := (SELECT min(id) FROM jobqueue.tasks WHERE id > task.id AND type = 'says_nothing');
	BEGIN
		PERFORM note(task, 'x');
		RETURN to_jsonb(jobqueue.cancel(other, 'not needed'));
	END
SQL
compare('cancels_next', types => [ ('plain') x 3, 'cancels_next', ('plain') x 2, 'says_nothing', 'plain',
	'says_nothing', 'plain' ],
	expect => qr/ completed 1\/20 - - result true /);
like(rows($node, 1), qr/^says_nothing 7 cancelled 0\/\S+ - not needed result - /m,
	'cancels_next: the other is cancelled');
handler('cancels_last', <<'SQL');
	BEGIN
		PERFORM note(task, 'x');
		RETURN to_jsonb(jobqueue.cancel((SELECT max(e.task) FROM public.effects e WHERE e.type = 'plain'), 'too late'));
	END
SQL
compare('cancels_last', groups => 10, expect => qr/ completed 1\/20 - - result false /);
# Nothing else that waits.
sql(q[SELECT jobqueue.purge_queue('default')], $node{$_}) for @modes;
handler('purges', q[PERFORM note(task, 'x'); RETURN to_jsonb(jobqueue.purge_queue('default'));]);
compare('purges', types => [ ('plain') x 4, 'purges', ('says_nothing') x 4 ],
	expect => qr/ completed 1\/20 - - result 4 /, groups => 10);
handler('deletes',
	q[PERFORM note(task, 'x'); RETURN to_jsonb(jobqueue.delete_tasks(type => 'says_nothing', status => 'pending'));]);
compare('deletes', types => [ ('plain') x 2, ('says_nothing') x 3, 'plain', 'deletes', 'plain', ('says_nothing') x 4,
	'plain' ],
	expect => qr/ completed 1\/20 - - result 4 /, groups => 10);
handler('takes_all', q[PERFORM note(task, 'x'); RETURN to_jsonb(jobqueue.cancel_tasks(type => 'says_nothing'));]);
compare('takes_all', types => [ ('plain') x 2, ('says_nothing') x 3, 'plain', 'takes_all', 'plain',
	('says_nothing') x 4, 'plain' ],
	expect => qr/ completed 1\/20 - - result 4 /, groups => 10);
handler('enqueues',
	q[PERFORM note(task, 'x'); RETURN to_jsonb(jobqueue.enqueue('says_nothing', jsonb_build_object('child', ]
		. q[task.payload->'n')) > task.id);]);
compare('enqueues', shared => 1, expect => qr/ completed 1\/20 - - result true /);
handler('enqueues_and_fails',
	q[PERFORM jobqueue.enqueue('says_nothing', jsonb_build_object('child', task.payload->'n')); PERFORM 1 / 0;],
		options => 'max_attempts => 1');
compare('enqueues_and_fails', expect => qr/ failed 1\/1 22012 /);
handler('enqueues_urgent',
	q[PERFORM note(task, 'x'); PERFORM jobqueue.enqueue('says_nothing', jsonb_build_object('child', ]
		. q[task.payload->'n'), priority => -5);]
	. q[ RETURN to_jsonb(jobqueue.cancel(jobqueue.enqueue('says_nothing', '{"child": 0}')));]);
compare('enqueues_urgent', shared => 1, expect => qr/ completed 1\/20 - - result true /);
handler('cancels_itself', q[PERFORM note(task, 'x'); PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(10);],
	options => 'max_attempts => 1');
compare('cancels_itself', expect => qr/ failed 1\/1 57014 /);

# --------------------------------------------------------------------------------------------------------------------
# What it leaves behind

my %leaves = (
	settings =>
		q[PERFORM set_config('work_mem', '1MB', false), set_config('TimeZone', 'Asia/Tokyo', true), ]
			. q[set_config('my.own', 'x', false);
		SET search_path = pg_catalog; SET LOCAL statement_timeout = 1; RESET statement_timeout; SET lock_timeout = ]
			. q['1ms';],
	settings_and_error =>
		q[SET work_mem = '1MB'; SET my.own = 'x'; SET LOCAL TimeZone = 'Asia/Tokyo'; BEGIN SET work_mem = '2MB'; ]
			. q[PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN END;],
	role => q[SET ROLE other;],
	local_role => q[SET LOCAL ROLE other;],
	read_only => q[SET TRANSACTION READ ONLY;],
	temporary => q[CREATE TEMP TABLE left_table AS SELECT 1;],
	temporary_dropped => q[CREATE TEMP TABLE left_table (x int) ON COMMIT DROP; INSERT INTO left_table VALUES (1);],
	temporary_function => q[CREATE FUNCTION pg_temp.left_function() RETURNS int LANGUAGE sql AS 'SELECT 1';],
	cursor => q[DECLARE c refcursor := 'left_cursor'; BEGIN OPEN c FOR SELECT 1; END;],
	held_cursor => q[EXECUTE 'DECLARE left_held CURSOR WITH HOLD FOR SELECT generate_series(1, 10)';],
	transaction_lock => q[PERFORM pg_advisory_xact_lock(task.id), pg_advisory_xact_lock_shared(7);],
	session_lock => q[PERFORM pg_advisory_lock(task.id), pg_advisory_lock_shared(7);],
	prepared => q[EXECUTE 'PREPARE left_statement AS SELECT 1';],
	large_object => q[PERFORM lo_open(lo_create(0), 131072);],
	table => q[EXECUTE format('CREATE TABLE left_for_good_%s ()', task.payload->>'n');],
);
for my $what (sort keys %leaves) {
	handler("leaves_$what", "PERFORM note(task, 'x'); $leaves{$what} RETURN '1';");
	compare("leaves_$what", expect => qr/ completed 1\/20 - - result 1 /);
}

# The same lock, taken by one task after another: no task blocks the next one.
handler('open_cursor',
	q[PERFORM note(task, 'x'); EXECUTE 'DECLARE left_c CURSOR FOR SELECT 1'; EXECUTE 'PREPARE left_s AS SELECT 1'; ]
		. q[CREATE TEMP TABLE left_t (); RETURN '1';]);
compare('open_cursor', name => 'the same name twice', types => [ 'plain', ('open_cursor') x 4, 'plain' ],
	expect => qr/ completed 1\/20 - - result 1 /);
handler('lo_peek',
	q[DECLARE f text; BEGIN BEGIN f := lo_tell(0)::text; EXCEPTION WHEN OTHERS THEN f := 'none'; END; PERFORM ]
		. q[note(task, 'x'); RETURN to_jsonb(f); END]);
compare('lo_peek', name => 'descriptors', types => [ ('plain') x 12, ('leaves_large_object', 'lo_peek') x 6,
	('plain') x 4 ], expect => qr/ completed 1\/20 - - result "none" /);

# --------------------------------------------------------------------------------------------------------------------
# The commit

handler('checked', q[PERFORM note(task, 'x'); INSERT INTO checked VALUES (task.id, true); RETURN '1';],
	options => 'max_attempts => 1');
compare('checked', expect => qr/ failed 1\/1 XC001 found at commit result - /, groups => 10);
handler('unchecked', q[PERFORM note(task, 'x'); INSERT INTO checked VALUES (task.id, false); RETURN '1';],
	options => 'max_attempts => 1');
compare('unchecked', shared => 1, expect => qr/ completed 1\/1 - - result 1 /);
handler('once_deferred', q[PERFORM note(task, 'x'); INSERT INTO once_deferred VALUES (1); RETURN '1';],
	options => 'max_attempts => 1');
compare('once_deferred', expect => [ qr/ completed 1\/1 - - result 1 /,
	qr/ failed 1\/1 23505 .*"constraint": "once_deferred_x_key"/ ], groups => 10);
both('INSERT INTO once VALUES (1)');
handler('defers', q[PERFORM note(task, 'x'); SET CONSTRAINTS once_x DEFERRED; RETURN '1';]);
handler('for_a_moment',
	q[PERFORM note(task, 'x'); INSERT INTO once VALUES (1); DELETE FROM once WHERE ctid = (SELECT max(ctid) FROM ]
		. q[once); RETURN '1';],
	options => 'max_attempts => 1');
compare('for_a_moment', name => 'SET CONSTRAINTS', types => [ 'plain', 'for_a_moment', 'defers', 'for_a_moment',
	'plain' ],
	expect => qr/ failed 1\/1 23505 /, groups => 10);
is(sql('SELECT count(*) FROM checked WHERE bad'), 0, 'nothing is left of those that failed at commit');

# --------------------------------------------------------------------------------------------------------------------
# Subtransactions: a transaction with more than 64 slows down everybody

handler('many_subtransactions', <<'SQL');
	BEGIN
		FOR i IN 1 .. 20 LOOP
			BEGIN
				PERFORM note(task, 'x');
				IF i % 5 = 0 THEN
					RAISE EXCEPTION 'back';
				END IF;
			EXCEPTION WHEN raise_exception THEN
			END;
		END LOOP;
		RETURN '1';
	END
SQL
compare('many_subtransactions', types => [ 'plain', ('many_subtransactions') x 12, 'plain' ],
	expect => qr/ completed 1\/20 - - result 1 /);
is(sql(<<'SQL'), 't', 'never more than 64 ids in a transaction, but where one task has that many');
	SELECT count(*) > 2 AND max(tasks) <= 4 FROM (SELECT count(DISTINCT task) AS tasks FROM effects
		WHERE type = 'many_subtransactions' GROUP BY xid) s
SQL
handler('too_many_subtransactions',
	q[BEGIN FOR i IN 1 .. 200 LOOP BEGIN PERFORM note(task, 'x'); EXCEPTION WHEN raise_exception THEN END; END ]
		. q[LOOP; RETURN '1'; END]);
compare('too_many_subtransactions', expect => qr/ completed 1\/20 - - result 1 /);

# --------------------------------------------------------------------------------------------------------------------
# Those that run alone

handler('a_procedure', q[PERFORM note(task, 'x');], procedure => 1);
compare('a_procedure', shared => 0, expect => qr/ completed 1\/20 - - result - /);
handler('committing', q[PERFORM note(task, 'x'); COMMIT; PERFORM note(task, 'y'); ROLLBACK; PERFORM note(task, 'z');],
	procedure => 1);
compare('committing', shared => 0, expect => qr/ completed 1\/20 - - result - /);
handler('some', q[PERFORM note(task, 'x'); RETURN '1';]);
compare('some', shared => 1);
compare('some', name => 'unique_key', shared => 0, super =>
	q[UPDATE jobqueue.tasks SET unique_key = id WHERE id IN ($list) AND type = 'some'],
		expect => qr/ completed 1\/20 - - result 1 /);
compare('some', name => 'timeout', shared => 0, super =>
	q[UPDATE jobqueue.tasks SET timeout = '1 minute' WHERE id IN ($list) AND type = 'some'],
		expect => qr/ completed 1\/20 - - result 1 /);
compare('some', name => 'failed before', shared => 0, super =>
	<<'SQL', expect => qr/ completed 2\/20 XX000 bad result 1 /);
	UPDATE jobqueue.tasks SET attempts = 1, max_attempts = 20, last_sqlstate = 'XX000', last_error = 'bad',
		failures = '[{"attempt": 1, "sqlstate": "XX000"}]'
	WHERE id IN ($list) AND type = 'some'
SQL
compare('some', name => 'crashed before', shared => 0, super =>
	q[UPDATE jobqueue.tasks SET crashes = 1, attempts = 1, max_attempts = 20, failures = ]
		. q['[{"attempt": 1, "sqlstate": "JQ005"}]' WHERE id IN ($list) AND type = 'some'],
	expect => qr/ completed 2\/20 - - result 1 /);

# statement_timeout is of a statement, that is a handler, not of the group.
both(<<'SQL');
	CREATE FUNCTION hasty(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM public.note(task, current_setting('statement_timeout'));
		PERFORM pg_sleep(CASE WHEN task.payload->>'n' = '60' THEN 30 ELSE 0.015 END);
	END $$;
	SELECT jobqueue.register_handler('hasty', 'hasty(jobqueue.tasks)', run_as => 'hasty', max_attempts => 1);
SQL
for my $mode (@modes) {
	fresh_worker($node{$mode});
	my @ids = fill($node{$mode}, [ ('hasty') x 60 ]);
	resume($node{$mode});
	at_rest($node{$mode}, "statement_timeout, $mode");
	is(sql("SELECT string_agg(DISTINCT concat_ws(' ', status, attempts, last_sqlstate, (payload->>'n' = '60')), ', "
		. "') FROM jobqueue.tasks WHERE id >= $ids[0]", $node{$mode}),
		'completed 1 f, failed 1 57014 t', "statement_timeout, $mode: for each handler by itself");
	is(sql("SELECT min(what), max(what), count(*) FROM effects WHERE task >= $ids[0]", $node{$mode}), '400ms|400ms|59',
		"statement_timeout, $mode: ... and it can see it");
	note "statement_timeout, $mode: " . sql("SELECT count(DISTINCT xid) FROM effects WHERE task >= $ids[0]",
		$node{$mode}) . ' transactions';
}
is(unexpected_in_log($node{$_}, qr/FATAL:  terminating background worker|WARNING:  warned/), '',
	"nothing unexpected in the log, $_") for @modes;
$node{durable}->stop;

# --------------------------------------------------------------------------------------------------------------------
# By default: the first three alone, then together

sub set {
	my (%changed) = @_;
	$node->append_conf('postgresql.conf', join '', map { "$_ = $changed{$_}\n" } sort keys %changed);
	$node->reload;
	fresh_worker($node);
}

# Lets tasks of these types run, in one worker that knows nothing. Returns their ids.
sub run {
	my ($name, $types, $more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @ids = fill($node, $types, $more);
	resume($node);
	at_rest($node, $name);
	return @ids;
}

# What is in this column of the effects of the tasks from this one on: count, count(DISTINCT), ...
sub of_effects {
	my ($first, $what) = @_;
	return sql("SELECT $what FROM effects WHERE task >= $first");
}

sub of_tasks {
	my ($first, $what) = @_;
	return sql("SELECT $what FROM jobqueue.tasks WHERE id >= $first");
}

both_gone();
sub both_gone { delete $node{durable}; @modes = ('fused'); }

handler('quick', q[PERFORM note(task, 'x'); PERFORM nextval('begun'); RETURN task.payload->'n';],
	options => 'max_attempts => 1');
$node->append_conf('postgresql.conf', "jobqueue.fused_after = 3\njobqueue.fused_time = 10\n");
set();
my ($first) = run('by default', [ ('quick') x 400 ]);
is(of_tasks($first,
	"count(*), count(*) FILTER (WHERE status = 'completed' AND attempts = 1 AND max_attempts = 1 AND result = "
		. "payload->'n')"), '400|400', 'by default: completed');
is(of_effects($first, 'count(DISTINCT xid)') < 150, 1, 'by default: fused')
	or diag of_effects($first, 'count(DISTINCT xid)');
is(of_effects($first, 'max(c) <= 60 FROM (SELECT count(*) AS c FROM effects WHERE task >= ' . $first
	. ' GROUP BY xid) s --'), 't', '... at most 60 to a transaction');
is(of_effects($first, 'count(DISTINCT xid) FILTER (WHERE n <= 3)'), 3, '... the first three by themselves');
is(of_effects($first, 'count(*) - count(DISTINCT task)'), 0, '... each once');
is(of_effects($first, 'array_agg(n ORDER BY seq) = array_agg(n ORDER BY n)'), 't', '... first in, first out');
set('jobqueue.fused_tasks' => 7, 'jobqueue.fused_after' => 0, 'jobqueue.fused_time' => 1000);
($first) = run('fused_tasks', [ ('quick') x 50 ]);
is(of_effects($first, 'max(c) FROM (SELECT count(*) AS c FROM effects WHERE task >= ' . $first . ' GROUP BY xid) s '
	. '--'), 7, 'jobqueue.fused_tasks: so many to a transaction');
set('jobqueue.fused_tasks' => 60, 'jobqueue.fused_time' => 0);
($first) = run('never', [ ('quick') x 30 ]);
is(of_effects($first, 'count(DISTINCT xid)'), 30, 'jobqueue.fused_time = 0: never fused');
# Long ones are not fused, once that is known: their neighbours run in other workers meanwhile.
handler('slow', q[PERFORM note(task, 'x'); PERFORM pg_sleep(0.06); RETURN '1';], options => 'max_attempts => 1');
set('jobqueue.fused_after' => 3, 'jobqueue.fused_time' => 10);
($first) = run('long ones', [ ('slow') x 10 ]);
is(of_effects($first, 'count(DISTINCT xid)'), 10, 'long ones are not fused');
# A function that is known from three types is known with the others; another function is not. None is taken for a long
# one because the machine is busy.
set('jobqueue.fused_time' => 1000);
sql(q{SELECT jobqueue.register_handler('quick_' || n, 'h_quick(jobqueue.tasks)', max_attempts => 1) FROM }
	. q{generate_series(1, 5) n});
handler('other', q[PERFORM note(task, 'x'); RETURN '1';], options => 'max_attempts => 1');
($first) = run('one function', [ ('quick_1') x 5, ('quick_2') x 5, ('quick_3') x 5, ('quick_4') x 20, ('quick_5') x 20,
	('other') x 20 ]);
is(of_tasks($first,
	q{string_agg(alone::text, ',' ORDER BY type) FROM (SELECT t.type, count(*) FILTER (WHERE e.together = 1) >= 3 }
		. q{AS alone
	FROM jobqueue.tasks t JOIN (SELECT task, count(*) OVER (PARTITION BY xid) AS together FROM effects) e ON e.task }
		. q{= t.id
	WHERE t.id >= } . $first . q{ GROUP BY t.type) s --}), 'true,true,true,true,false,false',
	'three types of a function speak for others');
is(unexpected_in_log($node, qr/FATAL:  terminating background worker|WARNING:  warned/), '',
	'nothing unexpected in the log');

# --------------------------------------------------------------------------------------------------------------------
# Those who wait for a task of a group, and for whom it is told

set('jobqueue.fused_after' => 0, 'jobqueue.fused_time' => 1000);
my $listener = $node->background_psql('app');
$listener->query_safe('LISTEN heard');
handler('says',
	q[PERFORM note(task, 'x'); PERFORM pg_notify('heard', 'n' || (task.payload->>'n')); IF task.payload->>'n' = '4' ]
		. q[THEN PERFORM 1 / 0; END IF;],
	returns => 'void', options => 'max_attempts => 1');
my @ids = fill($node, [ ('says') x 6, ('quick') x 3 ]);
my @waiters = map {
	my $waiter = $node->background_psql('app');
	$waiter->query_until(qr/waiting/,
		"\\echo waiting\nSELECT format('%s %s %s', status, attempts, result) FROM jobqueue.wait_for($_, '1 "
			. "min');\n\\echo told\n");
	$waiter
} @ids[ 2, 3, 7 ];
wait_sql($node, 'app',
	q[SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT format.*wait_for' AND state = 'active'], 3,
		'three wait');
resume($node);
like($waiters[0]->query_until(qr/told/, ''), qr/^completed 1 $/m, 'wait_for: a task of a group');
like($waiters[1]->query_until(qr/told/, ''), qr/^failed 1 $/m, 'wait_for: one that failed');
like($waiters[2]->query_until(qr/told/, ''), qr/^completed 1 8$/m, 'wait_for: one after it');
$_->quit for @waiters;
at_rest($node, 'wait_for');
my $heard = '';
ok(wait_for(sub { $heard .= $listener->query('SELECT 1'); $heard =~ /"n6"/ }), 'NOTIFY of handlers arrives');
is(join(' ', $heard =~ /"(n\d)"/g), 'n1 n2 n3 n5 n6', '... once, and in order; that of the failed one does not');
$listener->quit;
like(of_effects($ids[0], 'count(*), count(DISTINCT xid)'), qr/^8\|[1-6]$/, '... they were fused');

# --------------------------------------------------------------------------------------------------------------------
# Locks

handler('locks',
	q[UPDATE account SET balance = balance + 1, task = h_locks.task.id WHERE id = 1; PERFORM note(task, 'x'); ]
		. q[RETURN '1';], options => 'max_attempts => 1');
# Does not wait: it would notice a shorter lock_timeout, or a cancellation.
handler('locks_or_not', <<'SQL', options => 'max_attempts => 1');
	BEGIN
		UPDATE account SET balance = balance + 1 WHERE id = 1;
		PERFORM note(task, 'x');
		RETURN '"waited"';
	EXCEPTION WHEN lock_not_available OR query_canceled OR deadlock_detected THEN
		PERFORM note(task, sqlstate);
		RETURN '"interrupted"';
	END
SQL
for my $type ('locks', 'locks_or_not') {
	# with neighbours that have run before it, and as the first
	for my $before (4, 0) {
		my $what = "$type after $before";
		# the last place is for another role
		set('jobqueue.fused_time' => 10, 'jobqueue.max_workers' => 3);
		my $holder = $node->background_psql('app');
		$holder->query_safe('BEGIN; UPDATE account SET balance = balance WHERE id = 1');
		@ids = fill($node, [ ('quick') x $before, $type, ('quick') x 4 ]);
		resume($node);
		wait_sql($node, 'app',
			"SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM jobqueue.worker_status "
				. "WHERE task_id = $ids[$before])
			AND EXISTS (SELECT FROM jobqueue.tasks WHERE id = $ids[$before] AND status = 'processing')",
			1, "$what: it waits for a lock, alone in the end");
		wait_sql($node, 'app', "SELECT count(*) FROM jobqueue.tasks WHERE id >= $ids[0] AND status = 'completed'",
			$before + 4, "$what: the others are completed meanwhile");
		$holder->query_safe('COMMIT');
		$holder->quit;
		at_rest($node, $what);
		is(sql("SELECT status, attempts, max_attempts, failures, last_error, crashes, result FROM jobqueue.tasks "
			. "WHERE id = $ids[$before]"), 'completed|1|1|||0|' . ($type eq 'locks' ? '1' : '"waited"'),
			"$what: charged nothing, and none the wiser");
		is(of_effects($ids[0], "count(*), count(*) FILTER (WHERE what = 'x')"), join('|', ($before + 5) x 2),
			"$what: each effect once");
	}
}
set('jobqueue.max_workers' => 1);
is(sql('SELECT balance FROM account WHERE id = 1'), 4, 'the effects of those that waited');

# One that takes long: the same, and it may not be able to tell.
handler('sleeps', <<'SQL', options => 'max_attempts => 1');
	BEGIN
		PERFORM nextval('begun');
		PERFORM pg_sleep(0.8);
		PERFORM note(task, 'x');
		RETURN '"slept"';
	EXCEPTION WHEN query_canceled THEN
		PERFORM note(task, 'cancelled');
		RETURN '"cancelled"';
	END
SQL
my $offset = log_size($node);
@ids = run('a long one', [ ('quick') x 4, 'sleeps', ('quick') x 2, 'sleeps', ('quick') x 2 ]);
is(sql("SELECT DISTINCT status, attempts, max_attempts, failures, last_error, crashes, result FROM jobqueue.tasks "
	. "WHERE id >= $ids[0] AND type = 'sleeps'"), 'completed|1|1|||0|"slept"',
	'a long one: charged nothing, and none the wiser');
is(of_effects($ids[0], "count(*), count(*) FILTER (WHERE what = 'x')"), '10|10', 'a long one: each effect once');
is(join("\n", log_matches($node, qr/jobqueue worker: (?:LOG|WARNING|ERROR)/, $offset)), '',
	'a long one: nothing in the log');

# Others do not wait for the end of a batch: as soon as a session waits for it, it ends after the running task.
handler('keeps_lock',
	q[PERFORM nextval('begun'); PERFORM note(task, 'x'); UPDATE account SET balance = balance + 1 WHERE id = 100 + ]
		. q[task.id * 0; PERFORM pg_sleep(0.015); RETURN '1';]);
set('jobqueue.fused_time' => 1000);
@ids = fill($node, [ ('keeps_lock') x 40 ]);
my $begun = sql('SELECT last_value FROM begun');
my $client = $node->background_psql('app');
$client->query_safe(<<"SQL");
	CREATE PROCEDURE pg_temp.meet(INOUT before bigint, INOUT after bigint) LANGUAGE plpgsql AS \$\$
	BEGIN
		WHILE (SELECT last_value FROM begun) < $begun + 5 LOOP
			PERFORM pg_sleep(0.001);
		END LOOP;
		before := (SELECT last_value FROM begun);
		UPDATE account SET balance = balance WHERE id = 100;
		COMMIT;
		after := (SELECT last_value FROM begun);
	END \$\$
SQL
resume($node);
my @met = map { $client->query_safe('CALL pg_temp.meet(0, 0)') } 1 .. 3;
at_rest($node, 'somebody waits');
$client->quit;
note "a client has seen begun, of 40: @met";
# By itself the group would have had all of them.
like(of_effects($ids[0], 'count(*), count(DISTINCT xid)'), qr/^40\|([2-9]|1\d|2\d)$/,
	'who waits for a group does not wait for its end; ... they were fused');

# All change accounts in the order of their numbers: there are no deadlock victims.
handler('transfers', <<'SQL', options => 'max_attempts => 1');
	DECLARE
		a int := 1 + (task.id * 7919) % 99;
		b int := 1 + (task.id * 104729) % 99;
	BEGIN
		UPDATE account SET balance = balance - 1 WHERE id = least(a, b);
		UPDATE account SET balance = balance + 1 WHERE id = greatest(a, b);
		PERFORM note(task, 'x');
		RETURN '1';
	END
SQL
set('jobqueue.fused_time' => 10, 'jobqueue.max_workers' => 3, deadlock_timeout => '100ms');
sql('UPDATE account SET balance = 0');
$offset = log_size($node);
my $script = PostgreSQL::Test::Utils::tempdir . '/transfer.sql';
PostgreSQL::Test::Utils::append_to_file($script, <<'SQL');
\set a random(1, 99)
\set b random(1, 99)
BEGIN;
UPDATE account SET balance = balance - 1 WHERE id = least(:a, :b);
UPDATE account SET balance = balance + 1 WHERE id = greatest(:a, :b);
COMMIT;
SQL
my ($bench_out, $bench_err) = ('', '');
my $bench = IPC::Run::start([ 'pgbench', '-n', '-c', 4, '-T', 6, '-f', $script,
	$node->connstr('app') =~ s/dbname=app/dbname=app user=app/r ],
	'<', \undef, '>', \$bench_out, '2>', \$bench_err);
@ids = run('transfers', [ ('transfers') x 3000 ]);
$bench->finish;
like($bench_out, qr/number of failed transactions: 0 |number of transactions actually processed: \d{3,}/,
	'clients go on meanwhile') or diag $bench_err;
unlike($bench_err, qr/ERROR|deadlock/i, '... and are no deadlock victims');
is(join("\n", log_matches($node, qr/deadlock detected/, $offset)), '', 'no handler was a deadlock victim');
is(of_tasks($ids[0], "count(*) FILTER (WHERE status = 'completed' AND attempts = max_attempts AND failures IS NULL)"),
	3000, '... all are completed, charged nothing');
is(sql('SELECT sum(balance) FROM account'), 0, '... nothing is lost');
is(of_effects($ids[0], 'count(*) - count(DISTINCT task)'), 0, '... nothing happened twice');
cmp_ok(of_effects($ids[0], 'count(DISTINCT xid)'), '<', 2900, '... some were fused');
note of_effects($ids[0], 'count(DISTINCT xid)') . ' transactions';

# --------------------------------------------------------------------------------------------------------------------
# The end of a worker in the middle of a group

# Waits in the middle of its group until something is done to it, the first time it is run.
handler('waits_here', <<'SQL', options => 'max_attempts => 5');
	BEGIN
		PERFORM note(task, 'x');
		PERFORM nextval('begun');
		PERFORM jobqueue.set_progress(0.5);
		WHILE task.attempts = 1 AND NOT EXISTS (SELECT FROM gate WHERE name = 'open') LOOP
			PERFORM pg_sleep(0.005);
		END LOOP;
		RETURN '1';
	END
SQL

# A group of five tasks, waits_here, and five more, up to there. Returns their ids, and the process.
sub run_up_to {
	set();
	fill($node, [ ('quick') x 20 ]); # a worker begins with small groups
	resume($node);
	poll_sql($node, 'app', $rest, 0);
	my @ids = fill($node, [ ('quick') x 5, 'waits_here', ('quick') x 5 ]);
	resume($node);
	my $pid = wait_for(sub {
		sql("SELECT pid FROM jobqueue.worker_status WHERE task_id = $ids[5] AND progress = 0.5");
	}) or die 'it does not run';
	is(sql("SELECT count(*) FROM jobqueue.tasks WHERE id >= $ids[0] AND status = 'pending'"), 11,
		'in the middle of a group: as everybody sees it, nothing has begun');
	return ($pid, @ids);
}

# The six others: completed, charged nothing, with one effect each.
sub are_uncharged {
	my ($what, @ids) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(sql("SELECT DISTINCT type, status, max_attempts - attempts, failures, crashes, last_error FROM jobqueue.tasks "
		. "WHERE id >= $ids[0] AND type = 'quick'"), 'quick|completed|0||0|',
		"$what: its neighbours are completed, charged nothing");
	is(of_effects($ids[0], 'count(*), count(DISTINCT task)'), join('|', (scalar @ids) x 2), "$what: one effect each");
}

sub wait_ready {
	my ($offset, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(wait_for(sub { log_matches($node, qr/database system is ready to accept connections/, $offset) }),
		"$what: the server comes back") or die 'it does not';
	poll_sql($node, 'app', 'SELECT true');
}

set('jobqueue.fused_time' => 1000, 'jobqueue.max_workers' => 1, deadlock_timeout => '1s');
my ($pid, @group) = run_up_to();
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
at_rest($node, 'worker terminated');
is(sql("SELECT status, attempts, crashes, jsonb_array_length(failures), failures->0->>'sqlstate', "
	. "failures->0->>'attempt' FROM jobqueue.tasks WHERE id = $group[5]"),
	'completed|2|0|1|JQ002|1', 'worker terminated: the running task is charged');
are_uncharged('worker terminated', @group);

# Cancelled from outside: the running one is, and one that has not run yet; not one that has run already.
(undef, @group) = run_up_to();
my $canceller = $node->background_psql('app');
$canceller->query_until(qr/cancelling/,
	"\\echo cancelling\nSELECT 'answer', jobqueue.cancel($group[5], 'enough'), jobqueue.cancel($group[8], 'this "
		. "too');\n\\echo done\n");
like($canceller->query_until(qr/done/, ''), qr/answer\|t\|t/,
	'cancel() of a task that runs in a group, and of one that has not begun');
$canceller->quit;
at_rest($node, 'cancelled');
is(of_tasks($group[0],
	"string_agg(concat_ws(' ', payload->>'n', status, attempts, last_error), ', ' ORDER BY id) FILTER (WHERE status "
		. "<> 'completed' OR failures IS NOT NULL)"),
	'6 cancelled 1 enough, 9 cancelled 0 this too', 'cancel(): both are cancelled, the others completed');
is(of_effects($group[0], "count(*), count(DISTINCT task), count(*) FILTER (WHERE n IN (6, 9))"), '9|9|0',
	'cancel(): ... nothing is left of them');

# A fast shutdown, an immediate stop, a crash of another process: no task is charged.
($pid, @group) = run_up_to();
is_prompt(sub { $node->stop('fast') }, 'a group does not hold up a fast shutdown');
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 0');
$node->start;
is(of_tasks($group[0], "count(*) FILTER (WHERE failures IS NULL AND crashes = 0 AND last_error IS NULL)"), 11,
	'fast shutdown: nobody is charged');
sql(q[INSERT INTO gate VALUES ('open')]);
$node->append_conf('postgresql.conf', 'jobqueue.max_workers = 1');
$node->reload;
at_rest($node, 'fast shutdown');
are_uncharged('fast shutdown', @group);
is(of_tasks($group[5], "DISTINCT status, failures FROM (SELECT * FROM jobqueue.tasks WHERE id = $group[5]) t --"),
	'completed|', 'fast shutdown: ... the one that ran, too');
sql('DELETE FROM gate');

($pid, @group) = run_up_to();
$node->stop('immediate');
$node->start;
sql(q[INSERT INTO gate VALUES ('open')]);
at_rest($node, 'immediate stop');
are_uncharged('immediate stop', @group);
is(of_tasks($group[5], "DISTINCT status, failures FROM (SELECT * FROM jobqueue.tasks WHERE id = $group[5]) t --"),
	'completed|', 'immediate stop: ... the one that ran, too');
sql('DELETE FROM gate');

# SIGKILL
for my $round (1 .. 2) {
	$offset = log_size($node);
	($pid, @group) = run_up_to();
	kill('KILL', $pid) == 1 or die 'it is gone';
	wait_ready($offset, "worker killed $round");
	at_rest($node, "worker killed $round");
	is(sql("SELECT status, attempts, crashes, jsonb_array_length(failures), failures->0->>'sqlstate', "
		. "failures->0->>'attempt' FROM jobqueue.tasks WHERE id = $group[5]"),
		'completed|2|1|1|JQ005|1', "worker killed $round: the running task is charged a crash");
	are_uncharged("worker killed $round", @group);
}

# A handler in C that crashes the server, and ones that end their process otherwise.
$node->safe_psql('app', <<'SQL');
	CREATE FUNCTION bad_vanish(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
	CREATE FUNCTION bad_leave(jsonb) RETURNS void LANGUAGE C AS 'bad_handlers';
SQL
sql(q[SELECT jobqueue.register_handler(bad, ('bad_' || bad || '(jsonb)')::regprocedure) FROM ]
	. q[unnest('{crash,vanish,leave}'::text[]) bad]);
for my $case ([ crash => 1, 1 ], [ crash => 3, 3 ], [ leave => 1, 0 ], [ vanish => 3, 0 ]) {
	my ($type, $most, $restarts) = @$case;
	my $what = "$type, max_crashes $most";
	set('jobqueue.max_crashes' => $most);
	$offset = log_size($node);
	@group = fill($node, [ ('quick') x 5, $type, ('quick') x 5 ]);
	sql('SELECT FROM jobqueue.resume_queue(NULL)');
	ok(wait_for(sub { my (undef, $out) = eval { $node->psql('app', $rest) };
		($out // '') eq '0' && log_matches($node, qr/database system is ready to accept connections/,
			$offset) >= $restarts }),
		"$what: all are done");
	is(sql("SELECT status, attempts, crashes, jsonb_array_length(failures), last_sqlstate FROM jobqueue.tasks WHERE "
		. "id = $group[5]"), "failed|$most|$most|$most|JQ005",
		"$what: it is charged, and failed");
	is(sql("SELECT DISTINCT status, max_attempts - attempts, failures, crashes FROM jobqueue.tasks WHERE id >= "
		. "$group[0] AND type = 'quick'"), 'completed|0||0', "$what: its neighbours are completed, charged nothing");
	is(of_effects($group[0], 'count(*), count(DISTINCT task)'), '10|10', "$what: one effect each");
	is(scalar(log_matches($node, qr/database system is ready to accept connections/, $offset)), $restarts,
		"$what: $restarts restarts");
}

# Under load, whichever process is killed: nothing is lost, nothing happens twice.
set('jobqueue.fused_time' => 10, 'jobqueue.max_workers' => 2, 'jobqueue.max_crashes' => 100,
	'jobqueue.fused_after' => 0);
handler('once_each', q[PERFORM note(task, 'x'); PERFORM nextval('begun'); RETURN '1';]);
@ids = fill($node, [ ('once_each') x 8000 ]);
resume($node);
for my $round (1 .. 8) {
	my $done = sql('SELECT last_value FROM begun') + 300;
	wait_for(sub { sql('SELECT last_value FROM begun') > $done || $node->safe_psql('app', $rest) eq '0' });
	my ($victim) = pids($node, 'worker') or last;
	if ($round % 3 == 0) {
		$offset = log_size($node);
		wait_ready($offset, "under load, $round") if kill('KILL', $victim) == 1;
	} else {
		$node->safe_psql('postgres', "SELECT pg_terminate_backend($victim)");
	}
}
at_rest($node, 'under load');
is(of_tasks($ids[0], "count(*) FILTER (WHERE status = 'completed'), count(*), count(DISTINCT id)"), '8000|8000|8000',
	'under load: all are completed');
is(of_effects($ids[0], 'count(*), count(DISTINCT task)'), '8000|8000', 'under load: each effect is there once');
cmp_ok(of_tasks($ids[0], 'coalesce(sum(jsonb_array_length(failures)), 0)'), '<=', 8,
	'under load: at most one task is charged for each that was ended');
cmp_ok(of_effects($ids[0], 'count(DISTINCT xid)'), '<', 7000, 'under load: they were fused')
	or diag of_effects($ids[0], 'count(DISTINCT xid)');

is(join("\n", log_matches($node, qr/TRAP:|stuck spinlock|leaked|reference leak|PANIC:/)), '',
	'nothing unexpected in the log');
$node->stop;
done_testing();
