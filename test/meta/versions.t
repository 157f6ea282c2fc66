# The version is written in jobqueue.control; the places that must repeat it agree.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use Test::More;

my $root = "$FindBin::Bin/../..";

sub slurp {
	my ($name) = @_;
	open my $in, '<', "$root/$name" or return '';
	local $/;
	return scalar <$in>;
}

my ($version) = slurp('jobqueue.control') =~ /^default_version *= *'([^']+)'/m;
like($version, qr/^[0-9]+\.[0-9]+\.[0-9]+$/, 'jobqueue.control has a version');

my $meta = decode_json(slurp('META.json'));
is($meta->{version}, $version, 'META.json: version');
is($meta->{provides}{jobqueue}{version}, $version, 'META.json: version provided');

is(decode_json(slurp('clients/node/package.json'))->{version}, $version, 'clients/node/package.json: version');
is((slurp('clients/python/pyproject.toml') =~ /^version *= *"([^"]+)"/m)[0], $version,
	'clients/python/pyproject.toml: version');

my @mentioned = slurp('README.md') =~ /\bversion ([0-9]+\.[0-9]+\.[0-9]+)/gi;
ok(@mentioned > 0, "README.md says \"version $version\"");
is($_, $version, 'README.md: version') for @mentioned;

my ($packaged) = slurp('debian/changelog') =~ /^jobqueue \(([^)]+)\)/;
like($packaged // '', qr/^\Q$version\E-[0-9]+$/, 'debian/changelog: version');

is(slurp('debian/control'), slurp('debian/control.in') =~ s/PGVERSION/15/gr,
	'debian/control: what pg_buildext makes of debian/control.in');

# CHANGELOG.md has the version, or the next one above it while that is in work; older ones follow, with their dates.
sub order { my ($text) = @_; return sprintf '%06d' x 3, split /\./, $text; }
my @headings = slurp('CHANGELOG.md') =~ /^## (.+)/mg;
like($headings[0] // '', qr/^[0-9]+\.[0-9]+\.[0-9]+ (?:- [0-9]{4}-[0-9]{2}-[0-9]{2}|\(unreleased\))$/,
	'CHANGELOG.md begins with a version');
like($_, qr/^[0-9]+\.[0-9]+\.[0-9]+ - [0-9]{4}-[0-9]{2}-[0-9]{2}$/, "CHANGELOG.md: $_: version and date")
	for @headings[1 .. $#headings];
my @versions = map { /^(\S+)/ } @headings;
is("@versions", join(' ', sort { order($b) cmp order($a) } @versions),
	'CHANGELOG.md: the newest version is at the top');
ok(grep({ $_ eq $version } @versions), "CHANGELOG.md has $version");

# From every version that was released, update scripts lead to this one.
my %next;
for (glob("$root/jobqueue--*--*.sql")) {
	my ($from, $to) = m{/jobqueue--([^/]+?)--([^/]+)\.sql$};
	push @{ $next{$from} }, $to;
	ok(grep({ $_ eq $to } @versions), "the update script from $from to $to: CHANGELOG.md has $to");
}
for my $old (grep { order($_) lt order($version) } @versions) {
	my (%reached, @way);
	for (@way = ($old); defined(my $from = shift @way);) {
		push @way, grep { !$reached{$_}++ } @{ $next{$from} // [] };
	}
	ok($reached{$version}, "update scripts lead from $old to $version");
}

# Nothing else that is built, or builds, has the number in it.
my @sources = grep { -f } map { glob "$root/$_" } qw(Makefile scripts/* .ci/* .github/*/* src/*.?pp src/*/*.?pp
	src/*/*/*.?pp src/sql/*.sql);
my @repeated = grep { slurp($_) =~ /(?<![0-9.])\Q$version\E(?![0-9.])/ } map { s{^\Q$root\E/}{}r } @sources;
ok(@sources > 100, 'there are sources');
is("@repeated", '', 'no source repeats the version');

done_testing();
