# Tests of users: files of esrs_test() calls, run by pg_prove, and by prove with psql.
#
# Catches: a line that a TAP reader does not take for a result; a test that fails, an error, or
# a file that ends too early, and the run passes all the same.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('prove');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $testlib = "$ENV{TESTDIR}/testlib/esrs_testlib";
my $have_c = -e "$testlib.so";

my $schema = 'CREATE EXTENSION esrs;' . counter_sql('counter');
$schema .= <<SQL if $have_c;
CREATE FUNCTION in_c(internal) RETURNS esrs.aggregate_handler AS '$testlib', 'testlib_counter' LANGUAGE C;
SELECT esrs_register_aggregate('in_c', handler => 'in_c(internal)');
SQL
$node->safe_psql('postgres', $schema);

# ---------------------------------------------------------------------------
# what users write
# ---------------------------------------------------------------------------

my $passes = <<'SQL';
SELECT esrs_test('counter', '{}', '{"add": 1}', ARRAY['{"added": 1}']::jsonb[]);
SELECT esrs_test('counter', ARRAY['{"added": 1}', '{"added": 2}']::jsonb[], '{"nothing": 1}', '{}');
SELECT esrs_test('counter', '{}', '{"refused": "a\nnot ok # TODO"}', then_error => 'no');
SQL
my $passes_in_c = $have_c ? <<'SQL' : $passes;
SELECT esrs_test('in_c', '{}', '{"Add": {"by": 2}}', ARRAY['{"Added": {"by": 2}}']::jsonb[]);
SELECT esrs_test('in_c', ARRAY['{"Added": {"by": 2}}']::jsonb[], '{"Add": {"by": -2}}');
SELECT esrs_test('in_c', ARRAY['{"Added": {"by": 2}}']::jsonb[], '{"Add": {"by": -3}}', then_error => 'below_zero');
SQL
my $fails = <<'SQL';
SELECT esrs_test('counter', '{}', '{"add": 1}', ARRAY['{"added": 2}']::jsonb[]);
SQL
my $fails_in_c = $have_c ? <<'SQL' : $fails;
SELECT esrs_test('in_c', '{}', '{"Add": {"by": -3}}', ARRAY['{"Added": {"by": -3}}']::jsonb[]);
SQL
my $errs = "SELECT esrs_test('no_such', '{}', '\"X\"');\n";

# name => [ text, does it pass?, what the output of the run says ]
my %files = (
	passes      => [ "\\echo 1..3\n$passes", 1, qr/^All tests successful\..*^Files=1, Tests=3,.*^Result: PASS/ms ],
	in_c        => [ "\\echo 1..3\n$passes_in_c", 1, qr/^All tests successful\..*^Files=1, Tests=3,.*^Result: PASS/ms ],
	plan_behind => [ "$passes\\echo 1..3\n", 1, qr/^Files=1, Tests=3,.*^Result: PASS/ms ],
	fails       => [ "\\echo 1..4\n$fails$passes", 0, qr/Failed 1\/4 subtests.*^Result: FAIL/ms ],
	fails_in_c  => [ "\\echo 1..4\n$passes_in_c$fails_in_c", 0, qr/Failed 1\/4 subtests.*^Result: FAIL/ms ],
	fails_only  => [ "\\echo 1..1\n$fails", 0, qr/Failed 1\/1 subtests.*^Result: FAIL/ms ],
	# an error ends the file
	error       => [ "\\echo 1..4\n$passes$errs", 0, qr/ERROR:  aggregate "no_such" does not exist.*^Result: FAIL/ms ],
	error_first => [ "\\echo 1..3\n$errs$passes", 0, qr/^Result: FAIL/m ],
	too_few     => [ "\\echo 1..4\n$passes", 0, qr/Bad plan.  You planned 4 tests but ran 3/ ],
	too_many    => [ "\\echo 1..2\n$passes", 0, qr/Bad plan.  You planned 2 tests but ran 3/ ],
	no_plan     => [ $passes, 0, qr/No plan found in TAP output/ ],
	nothing     => [ '', 0, qr/No subtests run/ ]);
append_to_file("$dir/$_.sql", $files{$_}->[0]) for keys %files;

# ---------------------------------------------------------------------------
# how they run them
# ---------------------------------------------------------------------------

my @psql = ('psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-f');
my %runners = (
	'pg_prove' => [ 'pg_prove', '--nocolor' ],
	'prove'    => [ 'prove', '--nocolor', '--exec', "@psql" ]);

# The exit status and all the output.
sub run_tests
{
	my @command = @_;
	my ($status, $output);

	# nothing of the run that this is part of
	local %ENV = map { $_ => $ENV{$_} } grep { !/^(HARNESS|PERL5?_?TEST|TEST_|TAP)/ } keys %ENV;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'postgres';
	local $ENV{PGOPTIONS} = '-c client_min_messages=warning';

	IPC::Run::run(\@command, '<', \'', '>&', \$output);
	$status = $? >> 8;
	return ($status, $output);
}

my $have_pg_prove = grep { -x "$_/pg_prove" } split /:/, $ENV{PATH};

for my $runner (sort keys %runners)
{
	SKIP:
	{
		skip 'pg_prove is not installed', 1 if $runner eq 'pg_prove' && !$have_pg_prove;

		for my $name (sort keys %files)
		{
			my ($text, $passes, $says) = @{ $files{$name} };
			my ($status, $output) = run_tests(@{ $runners{$runner} }, "$dir/$name.sql");

			ok(($status == 0) == $passes, "$runner: $name " . ($passes ? 'passes' : 'fails'))
			  or diag($output);
			like($output, $says, "$runner: $name: and says so");
		}
		# several at once, of which one fails
		my ($status, $output) = run_tests(@{ $runners{$runner} }, map { "$dir/$_.sql" } 'passes', 'fails', 'in_c');
		isnt($status, 0, "$runner: one file of three fails");
		like($output, qr/^Files=3, Tests=10,.*^Result: FAIL/ms, "$runner: all three were run");

		# what went wrong is shown
		($status, $output) = run_tests(@{ $runners{$runner} }, '-v', "$dir/fails_only.sql");
		like($output, qr/^not ok - counter: given 0 events, when add, then 1 event$/m, "$runner: which test failed");
		like($output, qr/^# expected: \[\{"added":2\}\]\n#      got: \[\{"added":1\}\]$/m, "$runner: and how");
	}
}
if (!$have_pg_prove) { note('pg_prove is not installed: tried with prove only') }

# a line for each, whatever is quoted in it
my (undef, $lines) = run_tests(@psql, "$dir/passes.sql");
is($lines, <<'TAP', 'one line a test');
1..3
ok - counter: given 0 events, when add, then 1 event
ok - counter: given 2 events, when nothing, then 0 events
ok - counter: given 0 events, when refused, then rejection no
TAP
is($node->safe_psql('postgres', 'SELECT count(*) FROM counter_events'), '0', 'nothing is stored');

SKIP:
{
	skip 'testlib is not built: no aggregate in C', 1 unless $have_c;
	pass('with an aggregate in C');
}

$node->stop;
done_testing();
