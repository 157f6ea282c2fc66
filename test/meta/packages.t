# ensure_packages of scripts/lib.sh, in a world where apt-get, sudo and the servers are stubs.
use strict;
use warnings;
use FindBin;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use Test::More;

my $lib = "$FindBin::Bin/../../scripts/lib.sh";
my $world;

sub write_file {
	my ($name, $content, $mode) = @_;
	make_path($1) if "$world/$name" =~ m{(.*)/};
	open my $out, '>', "$world/$name" or die "$name: $!";
	print $out $content;
	close $out;
	chmod $mode, "$world/$name" if $mode;
}

sub slurp {
	my ($name) = @_;
	open my $in, '<', "$world/$name" or return '';
	local $/;
	return scalar <$in>;
}

sub program { my ($name, $body) = @_; write_file("bin/$name", "#!/bin/bash\n$body\n", 0755); }

sub server {
	my ($major, $headers) = @_;
	my $dir = "$world/pg/$major";
	return <<"SH";
mkdir -p $dir/bin $dir/include $dir/share/extension
touch $dir/pgxs.mk $dir/bin/postgres $dir/bin/initdb; chmod +x $dir/bin/*
@{[ $headers ? "touch $dir/include/postgres.h" : '' ]}
cat >$dir/bin/pg_config <<'PG'
#!/bin/bash
case \$1 in
--version) echo PostgreSQL $major.1 ;;
--includedir-server) echo $dir/include ;;
--pgxs) echo $dir/pgxs.mk ;;
--bindir) echo $dir/bin ;;
--sharedir) echo $dir/share ;;
--pkglibdir) echo $dir/lib ;;
esac
PG
chmod +x $dir/bin/pg_config
SH
}

# A machine with little more than coreutils. What apt-get does when asked to install package P is in the file apt/P.
sub new_world {
	my (%packages) = @_;
	$world = tempdir(CLEANUP => 1);
	make_path("$world/bin", "$world/pg", "$world/settings");
	for my $tool (qw(bash env sed sort head tail grep mktemp tr cat cp rm mkdir touch chmod dirname flock true)) {
		my ($path) = grep { -x } map { "$_/$tool" } split /:/, $ENV{PATH};
		symlink $path, "$world/bin/$tool";
	}
	program('id', 'echo ${FAKE_UID:-0}');
	program('sudo', '[[ -n $FAKE_SUDO ]] || exit 1; shift; exec "$@"');
	program('dpkg', 'exit 1');
	program('apt-cache', 'echo "  Depends: postgresql-17"');
	program('apt-get', <<"SH");
echo "\$*" >>$world/calls
[[ \$1 == install ]] || exit 0
for p in "\$@"; do
	cat $world/settings/createcluster.conf >$world/conf-seen-by-\$p 2>/dev/null
	[[ ! -f $world/apt/\$p ]] || . $world/apt/\$p || exit
done
SH
	write_file("apt/$_", $packages{$_}) for keys %packages;
}

# Runs ensure_packages; sets the exit code and returns the output.
my $exit;
sub ensure {
	my ($purposes, %env) = @_;
	local %ENV = (PATH => "$world/bin", PG_ROOT => "$world/pg", PG_SETTINGS => "$world/settings", %env);
	my $output = `bash -c '. "\$0"; ensure_packages "\$@"' $lib $purposes 2>&1`;
	$exit = $? >> 8;
	return $output;
}

sub installs { return [map { /^install / ? join ' ', grep { !/^-|::|^install$/ } split : () } split /\n/,
	slurp('calls')]; }

sub clang_format { return "touch $world/bin/clang-format; chmod +x $world/bin/clang-format" }

new_world();
program('clang-format', '');
is(ensure('format'), '', 'nothing to say where nothing is missing');
is($exit, 0, 'and success');
is(slurp('calls'), '', 'and apt-get is left alone');

new_world();
write_file('apt/clang-format', clang_format());
like(ensure('format'), qr/^missing: clang-format: apt-get install/, 'root: says what it installs');
is($exit, 0, 'root: success');
is_deeply(installs(), ['clang-format'], 'root: installs what is missing');

new_world();
write_file('apt/clang-format', clang_format());
ensure('format', FAKE_UID => 1000, FAKE_SUDO => 1);
is($exit, 0, 'sudo: success');
is_deeply(installs(), ['clang-format'], 'sudo: installs what is missing');

new_world();
my $output = ensure('format tap', FAKE_UID => 1000);
is($exit, 1, 'neither root nor sudo: fails');
like($output,
	qr/^apt-get\ install\ -y\ --no-install-recommends\ clang-format\ g\+\+\ libipc-run-perl\ make\ perl\ postgresql-17
		\ postgresql-server-dev-17$/mx,
	'neither root nor sudo: says exactly what to run');
is(slurp('calls'), '', 'neither root nor sudo: apt-get is left alone');

new_world('clang-format' => 'echo no network; exit 100');
$output = ensure('format');
is($exit, 1, 'apt-get fails: fails');
like($output, qr/no network.*^apt-get update && apt-get install .* clang-format$/ms,
	'apt-get fails: says why, and what to run');

new_world('clang-format' => '');
like(ensure('format'), qr/still missing .*clang-format/, 'apt-get brings nothing: says so');
is($exit, 1, 'apt-get brings nothing: fails');

# the server, with a cluster that is not wanted
my $conf = "#create_main_cluster = true\nssl = on\n";
for my $before ('', $conf) {
	new_world();
	write_file('settings/createcluster.conf', $before) if $before;
	write_file('apt/postgresql-common', "echo -n '$conf' >$world/settings/createcluster.conf") unless $before;
	write_file('apt/postgresql-17', server(17, 0));
	write_file('apt/postgresql-server-dev-17', server(17, 1));
	write_file('apt/g++', "cd $world/bin; touch g++ make; chmod +x g++ make");
	ensure('server');
	my $when = $before ? 'with settings' : 'without settings';
	is($exit, 0, "server, $when: success");
	is_deeply(installs(), ['postgresql-common', 'g++ make postgresql-17 postgresql-server-dev-17'],
		"server, $when: two steps");
	like(slurp('conf-seen-by-postgresql-17'), qr/^create_main_cluster = false$/m, "server, $when: creates no cluster");
	is(slurp('settings/createcluster.conf'), $conf, "server, $when: leaves the settings as they were");
}

new_world();
write_file('settings/createcluster.conf', $conf);
write_file('apt/postgresql-17', 'exit 100');
ensure('server');
is($exit, 1, 'server that cannot be installed: fails');
is(slurp('settings/createcluster.conf'), $conf, 'and leaves the settings as they were');

# services that are not wanted
for my $before ('', 'exit 0') {
	new_world();
	write_file('apt/redis-server',
		"cat $world/policy >$world/policy-seen; touch $world/bin/redis-server; chmod +x $world/bin/redis-server");
	write_file('policy', $before) if $before;
	ensure('redis-server', POLICY => "$world/policy");
	my $when = $before ? 'with a policy' : 'without a policy';
	is($exit, 0, "service, $when: success");
	like(slurp('policy-seen'), $before ? qr/^exit 0$/ : qr/exit 101/, "service, $when: asks it");
	is(slurp('policy'), $before, "service, $when: leaves it as it was");
}

# which server
sub chosen {
	my (%env) = @_;
	local %ENV = (PATH => "$world/bin", PG_ROOT => "$world/pg", JOBQUEUE_CACHE => "$world/cache", %env);
	my $what = delete $ENV{show} ? 'compgen -v | grep -E "^PG(PORT)?\$"' : 'find_server; echo $PG_MAJOR';
	chomp(my $result = `bash -c '. "\$0"; $what' $lib 2>&1`);
	return $result;
}

new_world();
is(chosen(), '', 'no server');
system 'bash', '-c', server(14, 1);
is(chosen(), '', 'too old a server is none');
system 'bash', '-c', server(15, 0);
is(chosen(), '15', 'one without headers, if need be');
system 'bash', '-c', server(9, 1) . server(15, 1) . server(16, 1) . server(17, 0);
is(chosen(), '16', 'the newest with headers');
is(chosen(PG_CONFIG => "$world/pg/15/bin/pg_config"), '15', 'PG_CONFIG decides');
like(chosen(PG_CONFIG => "$world/pg/14/bin/pg_config"), qr/15 or newer is needed/, 'PG_CONFIG too old');
like(chosen(PG_CONFIG => '/nowhere/pg_config'), qr/no such program/, 'PG_CONFIG nowhere');
is(chosen(PG => 15), '15', 'PG decides');
is(chosen(PG => 17), '17', 'PG decides, without headers, if need be');
is(chosen(PG => 18), '', 'PG decides, though it is not there');
like(chosen(PG => 16, PG_CONFIG => "$world/pg/15/bin/pg_config"), qr/belongs to PostgreSQL 15, but PG=16/,
	'PG and PG_CONFIG disagree');
is(chosen(PG => 17, PGPORT => 1, show => 1), 'PG', 'connection settings are forgotten, PG is not');

# a version that is not installed
sub fetching {
	my ($version, %env) = @_;
	new_world();
	program('apt-cache', '[[ $1 == show ]] && exit 100; echo "  Depends: postgresql-15"');
	program($_, '') for qw(g++ make);
	my $output = ensure('server', PG => $version, JOBQUEUE_CACHE => "$world/cache", %env);
	return $output;
}
like(fetching(19), qr/^PG=19: this version is neither installed nor known/, 'a version that nobody has');
is($exit, 1, '... is a failure');
like(fetching(17, FAKE_UID => 1000), qr/^missing: PostgreSQL 17 with its headers\.$/m,
	'a version that only root can bring: says what is missing');
is($exit, 1, '... is a failure');
is(slurp('calls'), '', '... and apt-get is left alone');

# the cache has it already: packages/pginstall18 in the wheel's environment
new_world();
program('apt-cache', '[[ $1 == show ]] && exit 100; echo "  Depends: postgresql-15"');
program($_, '') for qw(g++ make);
my ($wheel) = `bash -c '. "\$0"; echo "\${WHEELS[18]}"' $lib` =~ /^(.*)$/;
my $packages = "$world/cache/" . ($wheel =~ s/==/-/r) . '/lib/python3.11/site-packages/some';
system 'bash', '-c', server(18, 1) . "mkdir -p $packages; mv $world/pg/18 $packages/pginstall18; "
	. "sed -i s:$world/pg/18:$packages/pginstall18: $packages/pginstall18/bin/pg_config";
is(chosen(), '', 'what is in the cache is not taken unasked');
is(chosen(PG => 18), '18', '... but for its version');
is(chosen(PG => 16), '', '... and for no other');
is(ensure('server', PG => 18, JOBQUEUE_CACHE => "$world/cache"), '', '... and then nothing is missing');

done_testing();
