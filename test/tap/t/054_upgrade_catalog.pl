# A database with version 0.1.0, made from the git history, is upgraded, and another one gets the present version at
# once: then the catalogs say the same about both. The rights that roles had stay, and a dump has them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use File::Copy;
use JobQueueTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $past = ($ENV{JOBQUEUE_PAST} // '') . '/0.1.0';
plan skip_all => 'needs the git history' unless -f "$past/jobqueue--0.1.0.sql";

# The control file says what concerns the script of its version only in a copy that is named after it.
chomp(my $share = `pg_config --sharedir`);
my @installed = map { "$share/extension/jobqueue--0.1.0.$_" } qw(sql control);
copy("$past/jobqueue--0.1.0.sql", $installed[0]) or die "$installed[0]: $!";
open my $control, '>', $installed[1] or die "$installed[1]: $!";
print $control grep { !/^default_version/ } split /^/, slurp_file("$past/jobqueue.control");
close $control;
END { unlink @installed if @installed }

my $node = start_node('upgrade');
$node->safe_psql('postgres', <<'SQL');
	CREATE ROLE first_owner SUPERUSER LOGIN;
	CREATE ROLE by_level;
	CREATE ROLE by_hand;
	CREATE ROLE by_default;
SQL
sub as_owner {
	my ($database, $sql) = @_;
	return $node->safe_psql($database, $sql, extra_params => [ '-U', 'first_owner' ]);
}

# What comes from default privileges is not the extension's, whoever creates what is new.
my $default_privileges = join '', map { <<"SQL" } qw(first_owner postgres);
	ALTER DEFAULT PRIVILEGES FOR ROLE $_ GRANT ALL ON FUNCTIONS TO by_default;
	ALTER DEFAULT PRIVILEGES FOR ROLE $_ GRANT ALL ON TABLES TO by_default;
	ALTER DEFAULT PRIVILEGES FOR ROLE $_ REVOKE ALL ON FUNCTIONS FROM PUBLIC;
SQL
my $rights = <<'SQL';
	SELECT jobqueue.grant_access('by_level', 'manager', 'some');
	SELECT jobqueue.grant_access('by_level', 'producer');
	GRANT USAGE ON SCHEMA jobqueue TO by_hand;
	GRANT EXECUTE ON FUNCTION jobqueue.register_handler, jobqueue.limit_role TO by_hand WITH GRANT OPTION;
	GRANT EXECUTE ON FUNCTION jobqueue.alter_handler TO PUBLIC;
	GRANT SELECT (type, handler), UPDATE (queue) ON jobqueue.handlers TO by_hand;
	GRANT SELECT ON jobqueue.queue_status TO by_hand;
	SELECT jobqueue.limit_role('by_level', max_queued => 10);
SQL

$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(upgraded fresh);

as_owner('upgraded', "CREATE EXTENSION jobqueue VERSION '0.1.0'");
as_owner('upgraded', $rights =~ s/SELECT jobqueue.limit_role.*//r);
$node->safe_psql('upgraded', <<"SQL");
	INSERT INTO jobqueue.limits (role, max_queued) VALUES ('by_level', 10);
	$default_privileges
	ALTER EXTENSION jobqueue UPDATE;
SQL

as_owner('fresh', "$default_privileges CREATE EXTENSION jobqueue; $rights");

# ---------------------------------------------------------------------------------------------------------------------
# What the catalogs say, one fact per line. A right that is there by default is the same as one that was granted, and a
# check is the same whether or not it was made for the rows that were there.

my $catalog = <<'SQL';
	SET search_path = pg_catalog;
	CREATE FUNCTION pg_temp.rights(acl aclitem[]) RETURNS text LANGUAGE sql AS
		$$SELECT coalesce(string_agg(a::text, ' ' ORDER BY a::text COLLATE "C"), 'none') FROM unnest(acl) a$$;
	CREATE FUNCTION pg_temp.known(name text) RETURNS text LANGUAGE sql AS
		$$SELECT regexp_replace(name, 'pg_toast_\d+', 'pg_toast_N', 'g')$$;

	CREATE TEMP TABLE member AS
		SELECT d.classid, d.objid, e.extowner FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
		WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'jobqueue';
	CREATE TEMP TABLE relation AS
		SELECT c.*, c.oid::regclass::text AS name FROM pg_class c WHERE c.relnamespace = 'jobqueue'::regnamespace;

	SELECT format('# %s: %s', what, fact) FROM (
		SELECT 'extension' AS what, concat_ws(', ', e.extversion, e.extowner::regrole, e.extnamespace::regnamespace,
			e.extrelocatable, obj_description(e.oid, 'pg_extension')) AS fact
			FROM pg_extension e WHERE e.extname = 'jobqueue'
		UNION ALL SELECT 'dump', c.id::regclass || ', ' || c.condition
			FROM pg_extension e, unnest(e.extconfig, e.extcondition) c(id, condition) WHERE e.extname = 'jobqueue'
		UNION ALL SELECT 'member', pg_describe_object(m.classid, m.objid, 0) FROM member m
		UNION ALL SELECT 'the extension depends on', pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
			FROM pg_depend d JOIN pg_extension e ON e.oid = d.objid
			WHERE d.classid = 'pg_extension'::regclass AND e.extname = 'jobqueue'
		UNION ALL SELECT DISTINCT 'dependency', pg_temp.known(format('%s on %s, %s',
			pg_describe_object(d.classid, d.objid, d.objsubid),
			pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid), d.deptype))
			FROM pg_depend d, pg_identify_object(d.classid, d.objid, d.objsubid) i
			WHERE coalesce(i.schema, '') = 'jobqueue' OR i.identity LIKE '%jobqueue.%'
		UNION ALL SELECT DISTINCT 'owner', format('%s by %s, %s',
			pg_describe_object(d.classid, d.objid, d.objsubid), d.refobjid::regrole, d.deptype)
			FROM pg_shdepend d, pg_identify_object(d.classid, d.objid, d.objsubid) i
			WHERE d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
				AND (coalesce(i.schema, '') = 'jobqueue' OR i.identity LIKE '%jobqueue%')
				AND NOT (d.deptype = 'i' OR d.deptype = 'a')
		UNION ALL SELECT 'schema', concat_ws(', ', n.nspowner::regrole, pg_temp.rights(n.nspacl),
			obj_description(n.oid, 'pg_namespace'))
			FROM pg_namespace n WHERE n.nspname = 'jobqueue'
		UNION ALL SELECT 'relation', concat_ws(', ', c.name, c.relkind, c.relpersistence, c.relowner::regrole,
			pg_temp.rights(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
				c.relowner))),
			c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.relispartition,
			pg_get_expr(c.relpartbound, c.oid), c.reltablespace, c.relam, c.relchecks, c.relhastriggers,
			obj_description(c.oid, 'pg_class'))
			FROM relation c
		UNION ALL SELECT 'column', concat_ws(', ', c.name,
			row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), a.attname,
			format_type(a.atttypid, a.atttypmod), a.attnotnull, 'default ' || pg_get_expr(d.adbin, d.adrelid),
			a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstorage, a.attcompression, a.attislocal,
			a.attinhcount, pg_temp.rights(a.attacl), col_description(c.oid, a.attnum))
			FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
				LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		UNION ALL SELECT 'constraint', concat_ws(', ', coalesce(r.conrelid::regclass::text, t.typname), r.conname,
			r.contype, replace(pg_get_constraintdef(r.oid), ' NOT VALID', ''), r.condeferrable, r.condeferred,
			r.conislocal, r.coninhcount, r.connoinherit, obj_description(r.oid, 'pg_constraint'))
			FROM pg_constraint r LEFT JOIN pg_type t ON t.oid = r.contypid
			WHERE r.connamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT 'index', concat_ws(', ', pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready,
			i.indisreplident, i.indisclustered, i.indisprimary, i.indisunique)
			FROM pg_index i JOIN relation c ON c.oid = i.indrelid
		UNION ALL SELECT 'rule', concat_ws(', ', c.name, r.rulename, r.ev_enabled, pg_get_ruledef(r.oid))
			FROM pg_rewrite r JOIN relation c ON c.oid = r.ev_class
		UNION ALL SELECT 'trigger', concat_ws(', ', c.name, pg_get_triggerdef(t.oid), t.tgenabled, t.tgisinternal)
			FROM pg_trigger t JOIN relation c ON c.oid = t.tgrelid
		UNION ALL SELECT 'policy', concat_ws(', ', c.name, p.polname, p.polcmd, p.polpermissive, p.polroles,
			pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid))
			FROM pg_policy p JOIN relation c ON c.oid = p.polrelid
		UNION ALL SELECT 'sequence', concat_ws(', ', c.name, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax,
			s.seqmin, s.seqcache, s.seqcycle)
			FROM pg_sequence s JOIN relation c ON c.oid = s.seqrelid
		UNION ALL SELECT 'function', concat_ws(', ', pg_get_functiondef(p.oid), p.proowner::regrole,
			pg_temp.rights(coalesce(p.proacl, acldefault('f', p.proowner))), obj_description(p.oid, 'pg_proc'))
			FROM pg_proc p WHERE p.pronamespace = 'jobqueue'::regnamespace
		UNION ALL SELECT 'type', concat_ws(', ', t.typname, t.typtype, t.typowner::regrole,
			pg_temp.rights(coalesce(t.typacl, acldefault('T', t.typowner))), t.typbasetype::regtype, t.typnotnull,
			t.typdefault, obj_description(t.oid, 'pg_type'))
			FROM pg_type t WHERE t.typnamespace = 'jobqueue'::regnamespace
		-- rights that a dump takes for the extension's own
		UNION ALL SELECT 'right of the extension', concat_ws(', ', pg_describe_object(p.classoid, p.objoid, p.objsubid),
			p.privtype, pg_temp.rights(p.initprivs))
			FROM pg_init_privs p JOIN member m ON m.classid = p.classoid AND m.objid = p.objoid
			WHERE pg_temp.rights(p.initprivs) <> pg_temp.rights(acldefault(
				CASE m.classid WHEN 'pg_class'::regclass THEN 'r' WHEN 'pg_proc'::regclass THEN 'f'
					ELSE 'T' END::"char",
				m.extowner))
	) f ORDER BY 1
SQL

sub facts {
	my ($database) = @_;
	my $text = $node->safe_psql($database, $catalog);
	# a function has several lines
	return split /\n(?=# )/, $text;
}

# What only one of them says, with the sign of diff.
sub differences {
	my ($upgraded, $fresh) = @_;
	my (%upgraded, %fresh);
	$upgraded{$_}++ for @$upgraded;
	$fresh{$_}++ for @$fresh;
	return sort { substr($a, 1) cmp substr($b, 1) } (map { "-$_" } grep { !$upgraded{$_} } keys %fresh),
		(map { "+$_" } grep { !$fresh{$_} } keys %upgraded);
}

my @fresh = facts('fresh');
for my $expected (
	qr/^# column: jobqueue\.incarnation, 8, adopted_subscriptions, .*default '\{\}'::oid\[\]/,
	qr/^# constraint: jobqueue\.tasks_live, tasks_bounds, /,
	qr/^# index: .* tasks_live_lease .*\(lease_expires_at, id\)/,
	qr/^# index: .* tasks_live_waiting_of /,
	qr/^# trigger: jobqueue\.tasks_live, .* task_updated .*, A, /,
	qr/^# function: .*jobqueue\.register_handler\(.*by_hand=X\*/s,
	qr/^# function: .*jobqueue\.alter_handler\(.*by_level=X/s,
	qr/^# member: schema jobqueue$/,
	qr/^# dump: jobqueue\.unique_keys, /,
	qr/^# dependency: /,
	qr/^# owner: /) {
	ok(grep({ $_ =~ $expected } @fresh), "the catalogs have $expected");
}
is(join("\n", differences([ facts('upgraded') ], \@fresh)), '', 'the catalogs of both databases say the same');
is($node->safe_psql('upgraded', "SELECT count(*) FROM pg_constraint WHERE conname = 'tasks_bounds' AND convalidated"),
	0, 'the update has not read the tasks');

my %dump;
for my $database (qw(upgraded fresh)) {
	my $file = "${PostgreSQL::Test::Utils::tmp_check}/$database.sql";
	$node->command_ok([ 'pg_dump', '-s', '-f', $file, '-d', $node->connstr($database) ], "a dump of $database");
	$dump{$database} = slurp_file($file);
	$dump{$database} =~ s/^\\(?:un)?restrict .*\n//mg;
}
like($dump{fresh}, qr/^GRANT ALL ON FUNCTION jobqueue\.register_handler\(.*TO by_hand WITH GRANT OPTION;$/m,
	'a dump has rights');
is(join("\n", differences(map { [ split /\n/, $dump{$_} ] } qw(upgraded fresh))), '',
	'dumps of both databases have the same rights');

# The processes know the new version, and run tasks.
$node->safe_psql('upgraded', <<'SQL');
	CREATE TABLE done (what text);
	CREATE FUNCTION do_it(payload jsonb) RETURNS void LANGUAGE sql
		AS $$INSERT INTO public.done VALUES (payload->>'what')$$;
	SELECT jobqueue.register_handler('do', 'do_it(jsonb)');
	SELECT jobqueue.enqueue('do', '{"what": "it"}');
SQL
wait_sql($node, 'upgraded', 'SELECT what FROM done', 'it', 'a task runs after the update');
# The comparison finds a default that a script has forgotten: here, one that leads on to another version takes it away.
chomp(my $version = $node->safe_psql('upgraded', "SELECT extversion FROM pg_extension WHERE extname = 'jobqueue'"));
push @installed, "$share/extension/jobqueue--$version--forgetful.sql";
append_to_file($installed[-1], 'ALTER TABLE jobqueue.incarnation ALTER adopted_subscriptions DROP DEFAULT;');
$node->safe_psql('upgraded', "ALTER EXTENSION jobqueue UPDATE TO 'forgetful'");
my @found = differences([ facts('upgraded') ], \@fresh);
is(scalar grep({ !/^.# extension: / && !/adopted_subscriptions/ } @found), 0, 'nothing else is different');
is(scalar grep({ /^.# column: .*adopted_subscriptions/ } @found), 2, 'a default that was forgotten is found');

is(unexpected_in_log($node, qr/the extension has version (?:0\.1\.0|forgetful), the library/), '',
	'nothing unexpected in the log');
$node->stop;

done_testing();
