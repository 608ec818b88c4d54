# scripts/demo, twice at once: both tell the whole story and leave nothing behind.
#
# Catches: a fixed directory, port or socket; a system-wide installation; a server or a
# directory that is left behind; a demo that fails for another user than root.

use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::Bin/..");
my $demo = "$top/scripts/demo";

plan skip_all => 'scripts/demo is not here' unless -x $demo;
plan skip_all => 'the packages that scripts/demo needs are not all installed'
  if $> != 0 && system("'$top/scripts/install-deps' >/dev/null 2>&1") != 0;

# as it is called by hand: not from within a run of scripts/test
delete @ENV{qw(ESRS_WORK PGHOST PGPORT PGUSER PGDATABASE PG_REGRESS TESTDIR TESTDATADIR)};

my $tmp = PostgreSQL::Test::Utils::tempdir_short();
chmod 0777, $tmp;
$ENV{ESRS_TMPDIR} = $tmp;

my @runs;
for my $n (1 .. 2)
{
	my ($out, $err) = ('', '');

	push @runs,
	  {
		out => \$out,
		err => \$err,
		run => IPC::Run::start([ 'bash', $demo ], '<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(300))
	  };
}
for my $n (1 .. 2)
{
	my $run = $runs[ $n - 1 ];

	eval { $run->{run}->finish };
	is($@, '', "demo $n comes to its end");
	is($run->{run}->full_result(0), 0, "demo $n exits with 0")
	  or diag(${ $run->{out} }, ${ $run->{err} });
	like(${ $run->{out} }, $_->[1], "demo $n shows $_->[0]")
	  for (
		[ 'a state', qr/"leftover": 7/ ],
		[ 'a notification', qr/Asynchronous notification "book_events"/ ],
		[ 'a rejection', qr/not enough copies left/ ],
		[ 'a version conflict', qr/version conflict/ ],
		[ 'the guard', qr/append-only/ ]);
	unlike(${ $run->{out} } . ${ $run->{err} }, qr/FATAL|PANIC/, "demo $n: nothing broke");
}
is_deeply([ glob("$tmp/*") ], [], 'nothing is left behind');

done_testing();
