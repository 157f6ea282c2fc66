# scripts/release, in repositories that are small and complete but for one thing.
use strict;
use warnings;
use FindBin;
use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use POSIX qw(strftime);
use Test::More;

my $root = "$FindBin::Bin/../..";
plan skip_all => 'git is not installed' if system('git --version >/dev/null 2>&1') != 0;

# No settings of the machine's; and git must not find a repository around the temporary directory.
$ENV{GIT_CONFIG_GLOBAL} = '/dev/null';
$ENV{GIT_CONFIG_NOSYSTEM} = 1;
$ENV{"GIT_${_}_NAME"} = 'tester' for qw(AUTHOR COMMITTER);
$ENV{"GIT_${_}_EMAIL"} = 'tester@localhost' for qw(AUTHOR COMMITTER);
delete @ENV{qw(GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE)};

my $world;

sub write_file {
	my ($name, $content) = @_;
	make_path($1) if "$world/repository/$name" =~ m{(.*)/};
	open my $out, '>', "$world/repository/$name" or die "$name: $!\n";
	print $out $content;
	close $out;
}

my $yesterday = strftime('%Y-%m-%d', localtime(time - 86400));
my $changes = "# Changelog\n\n## 0.2.0 - $yesterday\n\n### Added\n\n- a thing\n\n## 0.1.0 - 2020-01-31\n\nThe first.\n";

# A repository in which everything is ready, but for the files given; undef = a file that is not there.
sub new_repository {
	my (%files) = @_;
	$world = tempdir(CLEANUP => 1);
	mkdir "$world/elsewhere";
	%files = (
		'jobqueue.control' => "default_version = '0.2.0'\n",
		'jobqueue--0.1.0--0.2.0.sql' => "SELECT 1;\n",
		'CHANGELOG.md' => $changes,
		'scripts/test' => "#!/bin/sh\necho \"suites: \$*\" >>'$world/calls'\nexit \${META_STATUS:-0}\n",
		%files);
	write_file($_, $files{$_}) for grep { defined $files{$_} } keys %files;
	for (qw(scripts/lib.sh scripts/dist scripts/release .gitignore .gitattributes)) {
		copy("$root/$_", "$world/repository/$_") or die "$_: $!\n";
	}
	chmod 0755, glob("$world/repository/scripts/*");
	system("cd '$world/repository' && git init -q -b main && git add -A && git commit -q -m all") == 0
		or die "no repository\n";
}

# Runs it in another directory; sets the exit code and returns the output.
my $exit;
sub release {
	my ($arguments) = @_;
	my $output = `cd '$world/elsewhere' && ../repository/scripts/release $arguments 2>&1`;
	$exit = $? >> 8;
	return $output;
}

sub git { my ($command) = @_; return join '', `git -C '$world/repository' $command 2>&1`; }

# What --check misses, each in a line.
sub missing {
	my @lines = release('--check') =~ /^not ready: (.*)/mg;
	is($exit, @lines ? 1 : 0, 'and its exit code says so');
	return join "\n", @lines;
}

new_repository();
is(missing(), '', 'ready: nothing is missing');
is(git('tag'), '', 'ready: --check makes no tag');
is(join(' ', glob("$world/elsewhere/*")), '', 'ready: and no archive');
is(join('', `cat '$world/calls'`), "suites: meta\n", 'ready: it has run the suite meta');

like(release(''), qr/^version 0\.2\.0 can be released\nmade \S+ and the tag v0\.2\.0/m, 'a release: says what it made');
is($exit, 0, 'a release: success');
is(git('cat-file -t v0.2.0'), "tag\n", 'a release: the tag is annotated');
is(git('rev-parse v0.2.0^{commit}'), git('rev-parse HEAD'), 'a release: and is what was committed');
is(git("tag -l --format='%(contents)' v0.2.0") =~ s/\n+\z//r, "jobqueue 0.2.0\n\n\n### Added\n\n- a thing",
	'a release: and has what CHANGELOG.md says');
ok(-s "$world/elsewhere/jobqueue-0.2.0.zip", 'a release: the archive is where it was called');
is(git('status --porcelain'), '', 'a release: leaves nothing behind in the tree');
like(missing(), qr/^the tag v0\.2\.0 exists/, 'a second time: the tag exists');

new_repository();
write_file('new.txt', '');
is(missing(), 'there are changes that are not committed', 'a new file');
new_repository();
write_file('jobqueue--0.1.0--0.2.0.sql', "SELECT 2;\n");
is(missing(), 'there are changes that are not committed', 'a changed file');

for my $heading ('0.2.0 (unreleased)', '0.2.0', "0.2.1 - $yesterday", '0.2.0 - 1.2.2026', "0x2.0 - $yesterday") {
	new_repository('CHANGELOG.md' => $changes =~ s/0\.2\.0 - $yesterday/$heading/r);
	like(missing(), qr/^CHANGELOG\.md begins with "## \Q$heading\E", not with "## 0\.2\.0 - [0-9-]{10}"$/,
		"CHANGELOG.md: $heading");
}
for my $date ('2026-02-30', '9999-01-01') {
	new_repository('CHANGELOG.md' => $changes =~ s/$yesterday/$date/r);
	is(missing(), "CHANGELOG.md: $date is no date, or in the future", "CHANGELOG.md: $date");
}
new_repository('CHANGELOG.md' => $changes =~ s/### Added.*?(?=## 0\.1)//sr);
is(missing(), 'CHANGELOG.md says nothing about this version', 'CHANGELOG.md: an empty section');

new_repository('jobqueue--0.1.0--0.2.0.sql' => undef);
is(missing(), 'there is no jobqueue--0.1.0--0.2.0.sql, to update from 0.1.0', 'no upgrade script');
new_repository('jobqueue--0.1.0--0.2.0.sql' => undef, 'CHANGELOG.md' => $changes =~ s/## 0\.1\.0.*//sr);
is(missing(), '', 'the first release needs none');

{
	local $ENV{META_STATUS} = 1;
	new_repository('jobqueue--0.1.0--0.2.0.sql' => undef);
	is(missing(), "there is no jobqueue--0.1.0--0.2.0.sql, to update from 0.1.0\nthe suite meta fails",
		'everything that is missing is said');
	like(release(''), qr/^version 0\.2\.0 cannot be released: 2 of these checks failed$/m, 'then nothing is released');
	is(git('tag'), '', 'there is no tag');
}

new_repository('jobqueue.control' => "default_version = '0.2'\n");
like(release('--check'), qr/default_version is "0\.2"/, 'a version that is none');
is($exit, 1, 'a version that is none: fails');
release('--chekc');
is($exit, 2, 'an unknown option: fails');

done_testing();
