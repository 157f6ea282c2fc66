# The archive that scripts/dist makes of what is committed: what is in it, and what is not.
use strict;
use warnings;
use FindBin;
use File::Temp qw(tempdir);
use IO::Uncompress::Unzip qw($UnzipError);
use JSON::PP;
use Test::More;

my $root = "$FindBin::Bin/../..";
plan skip_all => 'this is no git repository' unless -e "$root/.git";
chdir $root or die "$root: $!\n";
chomp(my $head = `git rev-parse HEAD 2>&1`);
plan skip_all => "git: $head" if $?;

my $directory = tempdir(CLEANUP => 1);
chomp(my $archive = `scripts/dist '$directory' 2>'$directory/messages'`);
is($?, 0, 'it is made') or do { system 'cat', "$directory/messages"; BAIL_OUT('no archive') };
my ($version) = `git show HEAD:jobqueue.control` =~ /^default_version *= *'([^']+)'/m;
is($archive, "$directory/jobqueue-$version.zip", 'it has the name that PGXN expects');

# Files by name, without the directory above them; with their text.
my %files;
my $zip = IO::Uncompress::Unzip->new($archive) or die "$archive: $UnzipError\n";
for (my $status = 1; $status > 0; $status = $zip->nextStream()) {
	my $name = $zip->getHeaderInfo()->{Name};
	my $text = do { local $/; <$zip> };
	next if $name =~ m{/$};
	$name =~ s{^\Qjobqueue-$version\E/}{} or fail("$name is in the directory jobqueue-$version");
	$files{$name} = $text // '';
}

my @committed = split /\n/, `git ls-tree -r --name-only HEAD`;
is(join("\n", sort keys %files), join("\n", sort grep { !m{^\.(?:git|ci)} } @committed),
	'it has everything that is committed, but for what serves the repository only');
ok(exists $files{$_}, "it has $_")
	for qw(META.json README.md LICENSE Makefile jobqueue.control src/jobqueue.cpp sql/nopreload.list),
	grep { /^(?:jobqueue--.*\.sql|CHANGELOG\.md|SECURITY\.md|CONTRIBUTING\.md)$/ } @committed;
for my $folder (qw(src/sql sql expected test/isolation/specs test/isolation/expected scripts doc)) {
	ok(grep({ m{^$folder/} } keys %files) > 0, "it has files in $folder");
}
is($files{$_}, join('', `git show 'HEAD:$_'`), "$_ is as it was committed") for qw(META.json Makefile jobqueue.control);

open my $list, '>', "$directory/names" or die "$!\n";
print $list map { "$_\n" } sort keys %files;
close $list;
is(`git check-ignore --no-index --stdin <'$directory/names'`, '', 'it has no file that git ignores');
is(join(' ', grep { /\.(?:o|d|so|bc|zip|log)$/ } sort keys %files), '', 'it has nothing that was built');

my $meta = decode_json($files{'META.json'});
is("$meta->{name}-$meta->{version}", "jobqueue-$version", 'META.json has the name and the version of the archive');
ok(exists $files{ $_->{file} } && exists $files{ $_->{docfile} }, 'the files that it names are there')
	for values %{ $meta->{provides} };

# Each test has its expected output.
for my $name (sort keys %files) {
	my ($dir, $test) = $name =~ m{^(test/isolation/)specs/(\w+)\.spec$} ? ($1, $2) : ('', $name =~ m{^sql/(\w+)\.sql$});
	ok(exists $files{"${dir}expected/$test.out"}, "$name: its expected output is there") if defined $test;
}

done_testing();
