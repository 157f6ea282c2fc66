# test/guarantees.md: what it quotes of the documents is there, each part of a guarantee has an entry, and each test
# that it names exists.
use strict;
use warnings;
use FindBin;
use Test::More;

my $root = "$FindBin::Bin/../..";

sub slurp {
	my ($name) = @_;
	open my $in, '<', "$root/$name" or return '';
	local $/;
	return scalar <$in>;
}

# A document as it is read: no emphasis, no links, no drawing, spaces for line ends.
sub plain {
	my ($text) = @_;
	$text =~ s/\[([^\]]*)\]\([^)]*\)/$1/g;
	$text =~ s/[*`]|[^\x00-\x7f]//g;
	return $text =~ s/\s+/ /gr;
}

# The parts that need an entry: paragraphs, list items, rows of tables.
my %sections = (
	'README.md' => qr/^## Guarantees, and their limits\n(.*?)^## /ms,
	'doc/reference.md' => qr/^### Crashes\n(.*?)^### /ms,
	'doc/security.md' => qr/^(## The model\n.*?)^## What shows it/ms);

my (%entries, $document);
for (split /\n/, slurp('test/guarantees.md')) {
	if (/^## (\S+)$/) {
		$document = $1;
	} elsif (/^- (.+)/) {
		push @{ $entries{$document} }, { quote => $1, tests => [] };
	} elsif (/^  `([^`]+)`: (.+)/) {
		push @{ $entries{$document}[-1]{tests} }, [ $1, $2 ];
	} elsif ($document && /\S/ && !/^###/) {
		fail("no entry, and no test: $_");
	}
}
is(join(' ', sort keys %entries), join(' ', sort keys %sections), 'each document is there');

for my $name (sort keys %sections) {
	my $text = plain(slurp($name));
	for my $entry (@{ $entries{$name} }) {
		my ($quote, @tests) = ($entry->{quote}, @{ $entry->{tests} });
		ok(index($text, $quote) >= 0, "$name says: $quote");
		ok(@tests > 0, '... and something shows it');
		for (@tests) {
			my ($file, $description) = @$_;
			next if $file eq 'none';
			like(slurp($file), qr/(?:['"]|^-- |^# )\Q$description\E/m, "... $file: $description");
		}
	}
	my ($section) = slurp($name) =~ $sections{$name};
	for my $part (split /\n\n+|\n(?=- |\|)/, $section // '') {
		next if $part
			=~ /^##[^\n]*$|^\|[-|]+\|?$|^\| *(?:who|plain SQL|what happens)|^```|test\/guarantees\.md/ || $part !~ /\S/;
		my $part_text = plain($part);
		# what only says what follows
		next if $part_text =~ /:\s*$/ && length $part_text < 300;
		ok((grep { index($part_text, $_->{quote}) >= 0 } @{ $entries{$name} }) > 0,
			"$name has an entry for: " . substr($part_text, 0, 70));
	}
}
done_testing();
