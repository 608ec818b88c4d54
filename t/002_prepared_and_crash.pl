# A prepared transaction holds its instances and the feed, also over a crash; and a
# crash loses nothing that was committed.
#
# Catches: a lock or a bound that PREPARE, a crash or the recovery releases; a position
# that is drawn again after a crash; a NOTIFY that makes PREPARE fail where it was
# switched off, or that is lost without an error where it was not.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('crash', conf => "max_prepared_transactions = 5\n");
my ($i1, $i2, $i3) = map { id($_) } 1 .. 3;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub feed
{
	return sql("SELECT string_agg(right(aggregate_id::text, 1) || '/' || coalesce(sequence_number::text, ''), ' '
	            ORDER BY position) FROM esrs_feed(ARRAY['counter'])");
}

# the SQLSTATE of a statement
sub sqlstate
{
	my ($statement) = @_;
	my (undef, undef, $stderr) =
	  $node->psql('postgres', "\\set VERBOSITY sqlstate\n$statement");

	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

sql('CREATE EXTENSION esrs');
sql(counter_sql('counter'));
sql("SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')");

# with a notification to be sent it cannot be prepared, and says so
sql("SELECT esrs_alter_aggregate('counter', '{\"notify\": \"commit\"}')");
my ($rc, undef, $stderr) = $node->psql('postgres',
	"BEGIN; SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}'); PREPARE TRANSACTION 'x';",
	on_error_stop => 1);
isnt($rc, 0, 'PREPARE is refused while a notification is due');
like($stderr, qr/cannot PREPARE .*\n.*"notify" to "worker"/, 'and the hint says what to do');
is(feed(), '1/1', 'that transaction left nothing');

# the worker tells, which it does by default: then it can
sql("SELECT esrs_alter_aggregate('counter', '{\"notify\": null}')");
sql("BEGIN;
     SELECT esrs_handle_command('counter', $i1, '{\"add\": 10}');
     SELECT esrs_delete('counter', $i3, permanent => true);
     PREPARE TRANSACTION 'held'");
sql("SELECT esrs_handle_command('counter', $i2, '{\"add\": 100}')");

# what must hold while it is prepared
sub held
{
	my ($when) = @_;

	is( sqlstate("SET lock_timeout = '50ms'; SELECT esrs_handle_command('counter', $i1, '{\"add\": 5}');"),
		'55P03',
		"$when: the instance is locked");
	is( sqlstate("SET lock_timeout = '50ms'; SELECT esrs_lock_and_load('counter', $i3);"),
		'55P03',
		"$when: so is one without events");
	is(feed(), '1/1', "$when: the feed stays below the prepared event");
	is(sql("SELECT sequence_number, state FROM esrs_load('counter', $i1)"),
		'1|{"sum": 1}', "$when: a plain load sees what is committed");
}
held('prepared');

my $before = sql('SELECT last_value FROM esrs.position_seq');
$node->stop('immediate');
$node->start;
held('after a crash');

# positions go on beyond all that were drawn
sql("SELECT esrs_handle_command('counter', $i2, '{\"add\": 200}')");
cmp_ok(sql('SELECT max(position) FROM counter_events'),
	'>', $before, 'positions never go back');
is(feed(), '1/1', 'still held');

sql("COMMIT PREPARED 'held'");
is(feed(), '1/1 1/2 3/ 2/1 2/2', 'committed: complete, in order')
  or diag(sql('SELECT * FROM esrs_feed(ARRAY[$$counter$$])'));
is(sql("SELECT esrs_handle_command('counter', $i1, '{\"add\": 5}')"),
	'{"sum": 16}', 'the instance goes on');
is(sqlstate("SELECT esrs_handle_command('counter', $i3, '{\"add\": 5}');"),
	'ZE007', 'the deletion has become true');

# rolled back: a gap, and nobody waits
sql("BEGIN;
     SELECT esrs_handle_command('counter', $i1, '{\"add\": 1000}');
     PREPARE TRANSACTION 'gone'");
sql("SELECT esrs_handle_command('counter', $i2, '{\"add\": 300}')");
unlike(feed(), qr{2/3}, 'held once more');
sql("ROLLBACK PREPARED 'gone'");
is(feed(), '1/1 1/2 3/ 2/1 2/2 1/3 2/3', 'rolled back: the feed goes on');
is(sql("SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')"),
	'{"sum": 17}', 'numbers have no gap');

# a crash in the middle of a transaction
my $open = $node->background_psql('postgres');
$open->query_safe("BEGIN; SELECT esrs_handle_command('counter', $i1, '{\"add\": 9999}');");
sql("SELECT esrs_handle_command('counter', $i2, '{\"add\": 400}')");
unlike(feed(), qr{2/4}, 'an open transaction holds the feed');
$node->stop('immediate');
$node->start;
eval { $open->quit };
like(feed(), qr{ 1/4 2/4$}, 'after a crash nobody holds it');
is(sql("SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')"),
	'{"sum": 18}', 'and nothing of it was kept');
is(sql('SELECT count(*) FROM esrs_check()'), '0', 'esrs_check() finds nothing');
is( sql("SELECT count(*) = max(sequence_number) FROM counter_events WHERE aggregate_id = $i1"),
	't', 'numbers 1 to n');

$node->stop;
done_testing();
