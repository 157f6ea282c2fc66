# The statements of the engine name operators, functions, types and system views without their schema: they run with a
# pinned search path. Here, objects of all these names are planted in front of every search path: in a schema, in public
# and among temporary objects. Each raises an error that says so when it is called. Then everything is done that the
# extension can do, again and again, while all plans are made anew; and nothing that was planted is ever called.
#
# The names come from the sources of the statements and from the system catalogs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('planted', autovacuum => 'off', 'jobqueue.poll_interval' => 200, 'jobqueue.max_workers' => 3);
create_queue($node, 'app');

# With the system's own objects only: what a client asks for precedes the settings of roles and databases.
sub look {
	my ($query) = @_;
	local $ENV{PGOPTIONS} = '-c search_path=pg_catalog';
	return $node->safe_psql('app', $query);
}

sub becomes_true {
	my ($query, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(wait_for(sub { look($query) eq 't' }), $name);
}

# ---------------------------------------------------------------------------------------------------------------------
# Planting

my $sources = join "\n", map { slurp_file($_) } glob "$FindBin::Bin/../../../src/engine/store/*.?pp";
my %words = map { $_ => 1 } $sources =~ /\b([a-z_][a-z0-9_]*)\b/g;
my %calls = map { $_ => 1 } $sources =~ /\b([a-z_][a-z0-9_]*)\(/g;

sub literals {
	return join ', ', map { "'$_'" } sort @_;
}

# What cannot be made, for instance a function with an argument of a pseudo-type, is left out. How many there are is
# checked below.
my $plant = <<'SQL';
CREATE FUNCTION SCHEMA.caught(what text) RETURNS boolean LANGUAGE plpgsql AS
	$$BEGIN RAISE EXCEPTION 'planted: %', what; END$$;
CREATE TABLE SCHEMA.count_of_planted (kind text);
DO $plant$
DECLARE
	item record;
	body text := 'BEGIN RAISE EXCEPTION ''planted: %s''; END';
	types text[] := '{bool,int2,int4,int8,float4,float8,text,name,oid,tid,timestamptz,interval,jsonb,regclass,regtype,
		regnamespace,xid}';
BEGIN
	-- operators of all names that the system has, between the types that the statements use
	FOR item IN
		SELECT o.oprname AS name, l.typname AS l, r.typname AS r, t.typname AS result, row_number() OVER () AS n
		FROM pg_operator o
			JOIN pg_type l ON l.oid = o.oprleft
			JOIN pg_type r ON r.oid = o.oprright
			JOIN pg_type t ON t.oid = o.oprresult
		WHERE o.oprnamespace = 'pg_catalog'::regnamespace
			AND (l.typname = ANY (types) AND r.typname = ANY (types) OR l.typname = 'anyarray' OR l.typname = 'jsonb')
	LOOP
		EXECUTE format('CREATE FUNCTION SCHEMA.operator_%s(pg_catalog.%I, pg_catalog.%I)
			RETURNS pg_catalog.%I IMMUTABLE LANGUAGE plpgsql AS %L',
			item.n, item.l, item.r, item.result, format(body, 'operator ' || replace(item.name, '%', '%%')));
		EXECUTE format('CREATE OPERATOR SCHEMA.%s
			(LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I, FUNCTION = SCHEMA.operator_%s)',
			item.name, item.l, item.r, item.n);
		INSERT INTO SCHEMA.count_of_planted VALUES ('operator');
	END LOOP;

	-- functions of all names that the statements call, also those that are aggregates or window functions there
	FOR item IN
		SELECT p.proname AS name, p.oid, p.proretset, p.prorettype::regtype AS result,
			(SELECT string_agg(t.a::regtype::text, ', ' ORDER BY t.n)
				FROM unnest(p.proargtypes) WITH ORDINALITY t(a, n)) AS arguments
		FROM pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname IN (CALLS)
	LOOP
		BEGIN
			EXECUTE format('CREATE FUNCTION SCHEMA.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L',
				item.name, coalesce(item.arguments, ''), CASE WHEN item.proretset THEN 'SETOF' ELSE '' END, item.result,
				format(body, 'function ' || item.name));
			INSERT INTO SCHEMA.count_of_planted VALUES ('function');
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	-- better matches than a polymorphic one
	FOR item IN SELECT unnest('{int8,int4,text,jsonb,timestamptz}'::text[]) AS type LOOP
		EXECUTE format('CREATE FUNCTION SCHEMA.unnest(pg_catalog.%1$s[]) RETURNS SETOF pg_catalog.%1$s
			LANGUAGE plpgsql AS %2$L', item.type, format(body, 'function unnest'));
	END LOOP;

	-- types, with casts from and to what they are named after
	FOR item IN SELECT unnest(types || '{bigint,regproc}') AS name LOOP
		EXECUTE format('CREATE TYPE SCHEMA.%I AS (a pg_catalog.int4)', item.name);
		CONTINUE WHEN item.name = 'bigint'; -- a keyword
		EXECUTE format('CREATE FUNCTION SCHEMA.from_%1$s(SCHEMA.%1$s) RETURNS pg_catalog.%1$s
			LANGUAGE plpgsql AS %2$L', item.name, format(body, 'cast'));
		EXECUTE format('CREATE FUNCTION SCHEMA.to_%1$s(pg_catalog.%1$s) RETURNS SCHEMA.%1$s
			LANGUAGE plpgsql AS %2$L', item.name, format(body, 'cast'));
		EXECUTE format('CREATE CAST (SCHEMA.%1$s AS pg_catalog.%1$s)
			WITH FUNCTION SCHEMA.from_%1$s AS IMPLICIT', item.name);
		EXECUTE format('CREATE CAST (pg_catalog.%1$s AS SCHEMA.%1$s)
			WITH FUNCTION SCHEMA.to_%1$s AS IMPLICIT', item.name);
		INSERT INTO SCHEMA.count_of_planted VALUES ('cast');
	END LOOP;

	-- in place of tables, views and sequences: those of the system that the statements read, and the extension's own
	FOR item IN
		SELECT c.relname AS name, c.oid::regclass AS source
		FROM pg_class c
		WHERE c.relkind IN ('r', 'p', 'v', 'S') AND (c.relnamespace = 'jobqueue'::regnamespace
			OR c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN (WORDS))
	LOOP
		EXECUTE format('CREATE VIEW SCHEMA.%I AS SELECT s.* FROM %s s WHERE SCHEMA.caught(%L)',
			item.name, item.source, 'table ' || item.name);
		INSERT INTO SCHEMA.count_of_planted VALUES ('table');
	END LOOP;
END $plant$;
SQL
$plant =~ s/CALLS/literals(keys %calls)/e;
$plant =~ s/WORDS/literals(keys %words)/e;

look(<<'SQL');
	CREATE ROLE eve LOGIN;
	CREATE ROLE victor LOGIN;
	CREATE SCHEMA eve AUTHORIZATION eve;
	GRANT USAGE ON SCHEMA eve TO PUBLIC;
	CREATE FUNCTION public.work(payload jsonb) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION public.many(payloads jsonb[]) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION public.breaks(payload jsonb) RETURNS void LANGUAGE plpgsql AS
		$$BEGIN RAISE EXCEPTION 'no'; END$$;
	CREATE FUNCTION eve.later(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
		$$BEGIN RAISE EXCEPTION 'planted: later'; END$$;
SQL
for my $schema ('eve', 'public') {
	look($plant =~ s/SCHEMA/$schema/gr);
	is(look(<<~SQL), 'cast function operator table', "objects of all kinds are planted in $schema");
		SELECT string_agg(p.kind, ' ' ORDER BY p.kind)
		FROM (SELECT kind FROM $schema.count_of_planted GROUP BY kind HAVING count(*) > 15) p
		SQL
}
my $path = 'eve, public, pg_catalog';
look(<<"SQL");
	GRANT SELECT ON public.count_of_planted TO victor;
	ALTER DATABASE app SET search_path = $path;
	ALTER ROLE ALL SET search_path = $path;
	ALTER ROLE victor SET search_path = $path;
	ALTER ROLE CURRENT_USER SET search_path = $path;
SQL
$node->restart; # so that the scheduler begins with it, too

# They are in the way of whoever has no pin.
my %found = (
	'SELECT 1 + 1' => 'planted: operator +',
	"SELECT '1'::int8" => 'malformed record literal',
	"SELECT left('x', 1)" => 'planted: function left',
	'SELECT 1 FROM pg_roles' => 'planted: table pg_roles');
for my $query (sort keys %found) {
	my (undef, undef, $err) = $node->psql('app', $query);
	like($err, qr/\Q$found{$query}\E/, "$query finds what is planted");
}

# ---------------------------------------------------------------------------------------------------------------------
# A life, of commands that use no operator and no function of the system themselves

my $temporary = join '', map { "CREATE TEMP TABLE $_ (a integer);\n" }
	qw(pg_roles pg_proc pg_namespace pg_class pg_locks pg_database pg_stat_activity pg_subscription_rel tasks tasks_live
	handlers schedules queues incarnation access limits tasks_id_seq int8 int2 float8 oid name interval regclass);
my $life = <<'SQL';
SELECT jobqueue.grant_access('victor', 'producer'), jobqueue.grant_access('victor', 'consumer'),
	jobqueue.grant_access('victor', 'manager'), jobqueue.grant_access('victor', 'sql', 'default'),
	jobqueue.grant_access('eve', 'consumer', 'outside');
SELECT jobqueue.register_handler('work', 'public.work(pg_catalog.jsonb)', run_as => 'victor', rate_limit => 100000,
	rate_period => '1 s', group_limit => 2);
SELECT jobqueue.register_handler('many', 'public.many(pg_catalog.jsonb[])', run_as => 'victor', batch_size => 10,
	timeout => '1 min');
SELECT jobqueue.register_handler('breaks', 'public.breaks(pg_catalog.jsonb)', run_as => 'victor', max_attempts => 2,
	first_delay => '0.05 s', jitter => 0, on_failure => 'work', discard_sqlstates => '{22012}');
SELECT jobqueue.register_handler('dies', 'public.breaks(pg_catalog.jsonb)', run_as => 'victor', max_attempts => 1,
	dead_letter_queue => 'dead');
SELECT jobqueue.alter_handler('many', max_running => 3, max_delay => '1 min');
SELECT jobqueue.alter_queue('limited', max_running => 2, weight => 3, rate_limit => 1000, rate_period => '1 s',
	group_limit => 1, group_rate_limit => 1000, group_rate_period => '1 s', aging => '1 min',
	group_hold_on_retry => true);
SELECT jobqueue.limit_role('victor', max_workers => 2, max_queued => 10000, max_payload => 100000, max_schedules => 10);
SELECT jobqueue.enqueue('work', queue => 'limited', group_key => 'a', priority => 3) AS a,
	jobqueue.enqueue('work', queue => 'limited', group_key => 'a') AS b,
	jobqueue.enqueue('many') AS c, jobqueue.enqueue('many') AS d, jobqueue.enqueue('work', delay => '0.05 s') AS e,
	jobqueue.enqueue('breaks') AS f, jobqueue.enqueue('dies') AS dead \gset
SELECT jobqueue.enqueue('work', after => ARRAY[:a, :c]) AS g,
	jobqueue.enqueue('work', after => ARRAY[:f], on_parent_failure => 'run') AS h \gset
SELECT jobqueue.enqueue_many('many', '{"{}","{}","{}"}', queue => 'limited', group_key => 'b');
SELECT jobqueue.enqueue_many('many', '{"{}","{}","{}"}');
SELECT * FROM jobqueue.enqueue_flow('[{"name": "x", "type": "work"}, {"name": "y", "type": "work", "after": ["x"]}]');
SET ROLE victor;
SELECT jobqueue.enqueue_sql('TABLE public.count_of_planted') AS i \gset
RESET ROLE;
SELECT * FROM jobqueue.enqueue_unique('none', unique_key => 'k', queue => 'unique', delay => '1 hour');
SELECT * FROM jobqueue.enqueue_unique('none', unique_key => 'k', queue => 'unique', delay => '1 hour',
	on_conflict => 'replace');
SELECT * FROM jobqueue.enqueue_unique('none', unique_key => 'p', queue => 'unique', unique_for => '0.01 s',
	delay => '1 hour');
SELECT * FROM jobqueue.enqueue_unique('none', unique_key => 'p', queue => 'unique', unique_for => '1 hour',
	delay => '1 hour');
SELECT jobqueue.schedule('minutely', '* * * * *', 'work'),
	jobqueue.schedule('often', '1 second', 'work', on_overlap => 'queue');
SELECT jobqueue.schedule_sql('commands', '1 second', 'TABLE public.count_of_planted', run_as => 'victor');
SELECT jobqueue.pause_schedule('minutely'), jobqueue.resume_schedule('minutely');
SELECT status FROM jobqueue.wait_for(:b, '60 s');
SELECT status FROM jobqueue.wait_for(:g, '60 s');
SELECT status FROM jobqueue.wait_for(:h, '60 s');
SELECT status FROM jobqueue.wait_for(:i, '60 s');
SELECT jobqueue.enqueue('outside', queue => 'outside'), jobqueue.enqueue('outside', queue => 'outside'),
	jobqueue.enqueue('outside', queue => 'outside', group_key => 'g'), jobqueue.enqueue('outside', queue => 'outside'),
	jobqueue.enqueue('outside', queue => 'outside', priority => 5), jobqueue.enqueue('outside', queue => 'outside');
SET ROLE victor;
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside', lease => '1 min') \gset
SELECT jobqueue.extend_lease(:a, :n), jobqueue.set_progress(:a, :n, 0.5, 'half'),
	jobqueue.complete(:a, :n, '{"x": 1}');
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside', types => '{outside}') \gset
SELECT jobqueue.release(:a, :n);
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside') \gset
SELECT jobqueue.snooze(:a, :n, '1 hour');
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside') \gset
SELECT jobqueue.fail(:a, :n, 'no', retry_in => '1 hour'), jobqueue.retry(:a);
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside') \gset
SELECT jobqueue.discard(:a, :n, 'no use');
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside') \gset
SELECT * FROM jobqueue.complete_and_claim(ARRAY[:a], ARRAY[:n]);
SELECT jobqueue.enqueue('outside', queue => 'outside', unique_key => 'mine', unique_scope => 'waiting');
SELECT id AS a, attempts AS n FROM jobqueue.claim('outside', lease => '0.05 s') \gset
RESET ROLE;
SELECT jobqueue.enqueue('none', delay => '1 hour') AS a \gset
SELECT jobqueue.retry(:a), jobqueue.cancel(:a, 'why'), jobqueue.retry(:a), jobqueue.cancel(:a);
SELECT jobqueue.pause_queue('limited'), jobqueue.pause_queue(NULL), jobqueue.resume_queue('limited'),
	jobqueue.resume_queue(NULL);
SELECT jobqueue.retry_failed(type => 'breaks'), jobqueue.retry_failed('dead');
SELECT jobqueue.enqueue('drained', delay => '1 hour', queue => 'drained');
SELECT jobqueue.register_handler('drained', 'public.work(pg_catalog.jsonb)', queue => 'drained', run_as => 'victor');
SELECT * FROM jobqueue.drain('drained');
SELECT jobqueue.cancel_tasks('unique'), jobqueue.delete_tasks('dead'), jobqueue.delete_tasks(status => 'failed'),
	jobqueue.purge_queue('outside');
TABLE jobqueue.queue_status;
TABLE jobqueue.worker_status;
TABLE jobqueue.running_tasks;
TABLE jobqueue.shared_capacity;
TABLE jobqueue.history_status;
TABLE jobqueue.access_status;
SELECT type, status FROM jobqueue.tasks;
SELECT jobqueue.adopt();
SELECT jobqueue.unregister_handler('drained'), jobqueue.unschedule('minutely'), jobqueue.unschedule('often'),
	jobqueue.unschedule('commands');
SELECT jobqueue.revoke_access('victor', 'sql', 'default'), jobqueue.revoke_access('eve', 'consumer', 'outside'),
	jobqueue.limit_role('victor');
SQL

# Plans become invalid, whoever holds them. What is planted meanwhile is there when they are made again.
my $invalidate = join '', map { "ALTER TABLE jobqueue.$_ SET (fillfactor = FILL);\n" }
	qw(tasks_live tasks_failed tasks_history_1 handlers queues schedules limits access incarnation dependencies
	dependents parents unique_keys history_ring);
$invalidate .= <<'SQL';
DROP OPERATOR IF EXISTS eve.= (pg_catalog.int8, pg_catalog.int8);
CREATE OPERATOR eve.= (LEFTARG = pg_catalog.int8, RIGHTARG = pg_catalog.int8, FUNCTION = eve.later);
SQL

my $offset = log_size($node);
my $script = "SET client_min_messages = warning;\n$temporary";
$script .= $life . $invalidate =~ s/FILL/$_/gr . "DISCARD PLANS;\n" x ($_ == 91) for 90 .. 92;
my (undef, undef, $err) = $node->psql('app', $script, timeout => 300);
is($err, '', 'all that can be done is done, with planted objects around');
becomes_true(<<'SQL', 'all tasks of handlers end');
	SELECT NOT EXISTS (SELECT FROM jobqueue.tasks
		WHERE status IN ('pending', 'processing') AND type NOT IN ('outside', 'dies'))
SQL

# What the scheduler does: leases that end, periods of keys that end, tasks that are finished by hand
look(<<'SQL');
	SELECT jobqueue.enqueue('outside', queue => 'outside');
	SELECT jobqueue.claim('outside', lease => '0.01 s');
	SELECT jobqueue.enqueue_unique('none', unique_key => 'short', unique_for => '0.01 s', delay => '1 hour');
	UPDATE jobqueue.tasks SET status = 'completed' WHERE status = 'scheduled' AND unique_key = 'short';
SQL
becomes_true(<<'SQL', 'leases end, keys expire, and what was finished by hand is archived');
	SELECT NOT EXISTS (SELECT FROM jobqueue.tasks_live WHERE status IN ('processing', 'completed'))
		AND NOT EXISTS (SELECT FROM jobqueue.unique_keys WHERE unique_key = 'short')
SQL

# An error of a worker or of the scheduler is in the log.
is(join("\n", grep { /\b(?:ERROR|WARNING|FATAL|PANIC): |planted:/ } split /\n/, log_since($node, $offset)), '',
	'nothing that was planted was called');

$node->stop;
done_testing();
