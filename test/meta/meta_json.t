# META.json against the PGXN Meta Spec 1.0.0: required keys, and the form of those we use.
use strict;
use warnings;
use FindBin;
use JSON::PP;
use Test::More;

my $root = "$FindBin::Bin/../..";
my $semver = qr/^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9A-Za-z-]+)?$/;
my $term = qr/^[^\s\/\\[:cntrl:]]{2,}$/;

sub is_text { my ($v, $what) = @_; ok(defined $v && !ref $v && $v =~ /\S/, "$what is text"); }

open my $in, '<', "$root/META.json" or die "META.json: $!";
my $meta = eval { decode_json(do { local $/; <$in> }) };
ok($meta, 'META.json is JSON') or BAIL_OUT($@);

like($meta->{name}, $term, 'name is a term');
is($meta->{name}, 'jobqueue', 'name');
like($meta->{version}, $semver, 'version is semantic');
is_text($meta->{abstract}, 'abstract');
is_text($meta->{description}, 'description');
is_text($meta->{generated_by}, 'generated_by');
is_text($_, 'maintainer') for ref $meta->{maintainer} ? @{ $meta->{maintainer} } : $meta->{maintainer};
is($meta->{license}, 'postgresql', 'license is a known word');
like($meta->{release_status}, qr/^(stable|testing|unstable)$/, 'release_status is a known word');

like($meta->{'meta-spec'}{version}, qr/^1\.0\.[0-9]+$/, 'meta-spec version');
is($meta->{'meta-spec'}{url}, 'https://pgxn.org/meta/spec.txt', 'meta-spec url');

is_deeply([keys %{ $meta->{provides} }], ['jobqueue'], 'provides the extension');
for my $extension (values %{ $meta->{provides} }) {
	like($extension->{version}, $semver, 'provides: version is semantic');
	is_text($extension->{abstract}, 'provides: abstract');
	for my $key (qw(file docfile)) {
		is_text($extension->{$key}, "provides: $key");
		ok(-f "$root/$extension->{$key}", "provides: $key exists");
	}
}

is($meta->{prereqs}{runtime}{requires}{PostgreSQL}, '15.0.0', 'requires PostgreSQL 15');
for my $phase (keys %{ $meta->{prereqs} }) {
	like($phase, qr/^(configure|build|test|runtime|develop)$/, "prereqs: phase $phase");
	for my $relation (keys %{ $meta->{prereqs}{$phase} }) {
		like($relation, qr/^(requires|recommends|suggests|conflicts)$/, "prereqs: relation $relation");
	}
}

ok(@{ $meta->{tags} } > 0, 'tags');
ok(/^[^\/\\[:cntrl:]]{1,255}$/, "tag: $_") for @{ $meta->{tags} };

my $uri = qr{^[a-z]+://[^\s/]+\.[^\s/]+(?:/\S*)?$};
like($meta->{resources}{homepage}, $uri, 'resources: homepage');
for my $key (keys %{ $meta->{resources} }) {
	like($key, qr/^(homepage|bugtracker|repository)$/, "resources: $key");
	next if $key eq 'homepage';
	is_deeply([grep { !/^(web|url|mailto|type)$/ } keys %{ $meta->{resources}{$key} }], [],
		"resources: $key: known keys");
	like($_, $uri, "resources: $key: $_") for grep { defined } @{ $meta->{resources}{$key} }{qw(web url)};
}

my %known = map { $_ => 1 } qw(name version abstract description maintainer license provides prereqs release_status tags
	generated_by meta-spec no_index resources);
is_deeply([grep { !$known{$_} && !/^[xX]_/ } keys %$meta], [], 'no unknown keys');

done_testing();
