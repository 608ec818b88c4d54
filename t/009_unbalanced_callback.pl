# A callback in C that leaves a subtransaction open: what follows would be
# acknowledged and never committed, so the session ends, nothing is stored, and
# other sessions go on.  Catches: the check after each callback left out, with
# which the first command below succeeds and its event is lost.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $testlib = "$ENV{TESTDIR}/testlib/esrs_testlib";

plan skip_all => 'testlib is not built' unless -e "$testlib.so";

my $node = new_node('main');

$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION esrs;
CREATE FUNCTION misbehave(internal) RETURNS esrs.aggregate_handler AS '$testlib', 'testlib_misbehave' LANGUAGE C;
SELECT esrs_register_aggregate('deeds', handler => 'misbehave(internal)');
SQL

my $id = id(1);
my $other = $node->background_psql('postgres');
$other->query_safe('SELECT 1');

my ($rc, $out, $err) = $node->psql('postgres',
	qq{SELECT esrs_handle_command('deeds', $id, '"forgets_subtransaction"');\nSELECT 'still here';});
isnt($rc, 0, 'the session ends');
like($err, qr/FATAL:  callback left a subtransaction open/, 'and says why');
unlike($out, qr/still here/, 'no further statement runs');
is($node->safe_psql('postgres', 'SELECT count(*) FROM deeds_events'), '0', 'nothing is stored');
is($other->query_safe("SELECT 'alive'"), 'alive', 'another session goes on');
$other->quit;

$node->stop;
done_testing();
