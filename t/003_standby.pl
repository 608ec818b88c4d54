# On a hot standby commands and the feed are refused with 25006; loading and listing
# events work, also after a change that the standby has replayed.
#
# Catches: a read that writes or locks too strongly; a feed that answers from a place
# where the locks of the primary are not seen; a cache that replay does not invalidate.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_node('primary', streaming => 1);
my $i1 = id(1);

$primary->safe_psql('postgres', 'CREATE EXTENSION esrs');
$primary->safe_psql('postgres', counter_sql('counter'));
$primary->safe_psql('postgres',
	"SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}', command_id => $i1)");
$primary->backup('backup');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

sub refused
{
	my ($what, $statement, $message) = @_;
	my (undef, undef, $stderr) =
	  $standby->psql('postgres', "\\set VERBOSITY verbose\n$statement;");

	like($stderr, qr/ERROR:\s+25006: .*$message/, "$what is refused with 25006");
}

refused('a command', "SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}')",
	'esrs_handle_command');
refused('a command whose command_id was seen',
	"SELECT esrs_handle_command('counter', $i1, '{\"add\": 1}', command_id => $i1)",
	'esrs_handle_command');
refused('esrs_try_command', "SELECT esrs_try_command('counter', $i1, '{\"add\": 1}')",
	'esrs_try_command');
refused('esrs_handle_commands',
	"SELECT * FROM esrs_handle_commands(ARRAY[('counter', $i1, '{\"add\": 1}', NULL, NULL, NULL)::esrs_command])",
	'esrs_handle_commands');
refused('esrs_persist', "SELECT * FROM esrs_persist('counter', $i1, ARRAY['{\"added\": 1}'::jsonb])",
	'esrs_persist');
refused('esrs_delete', "SELECT esrs_delete('counter', $i1)", 'esrs_delete');
refused('esrs_lock_and_load', "SELECT esrs_lock_and_load('counter', $i1)", 'esrs_lock_and_load');
refused('registering', "SELECT esrs_register_aggregate('other')", 'esrs_register_aggregate');
refused('altering', "SELECT esrs_alter_aggregate('counter', '{}')", 'esrs_alter_aggregate');
refused('registering a handler',
	"SELECT esrs_register_handler('h', ARRAY['counter'], 'f(esrs_event)')", 'esrs_register_handler');
refused('unregistering', "SELECT esrs_unregister_aggregate('counter')", 'esrs_unregister_aggregate');
refused('esrs_check', 'SELECT * FROM esrs_check()', 'esrs_check');
refused('the feed', "SELECT * FROM esrs_feed(ARRAY['counter'])", 'the feed cannot be read');

sub standby { return $standby->safe_psql('postgres', $_[0]) }

my $load = "SELECT sequence_number, state FROM esrs_load('counter', $i1)";
is(standby($load), '1|{"sum": 1}', 'esrs_load works');
is( standby("SELECT sequence_number, payload FROM esrs_events('counter', $i1)"),
	'1|{"added": 1}', 'esrs_events works');
is(standby("SELECT esrs_event_json(e) LIKE '%\"sequence_number\":1,%' FROM esrs_events('counter', $i1) AS e"),
	't', 'esrs_event_json works');
is(standby("SELECT name, kind FROM esrs_aggregates"), 'counter|sql', 'the views work');
is(standby("SELECT * FROM esrs_decide('counter', $i1, '{\"add\": 7}')"),
	'{"added": 7}', 'esrs_decide works');

# one session of the standby over changes of the primary
my $session = $standby->background_psql('postgres');
is($session->query_safe($load), '1|{"sum": 1}', 'a session has looked');
$primary->safe_psql('postgres', "SELECT esrs_handle_command('counter', $i1, '{\"add\": 2}')");
$primary->wait_for_catchup($standby);
is($session->query_safe($load), '2|{"sum": 3}', 'it sees a new event');
$primary->safe_psql('postgres', <<'SQL');
CREATE OR REPLACE FUNCTION counter_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + 100 * (event ->> 'added')::int)
$$;
SQL
$primary->wait_for_catchup($standby);
is($session->query_safe($load), '2|{"sum": 300}', 'and a new function');
$session->quit;

# promoted, it takes commands, and positions go on
$standby->promote;
my $last = standby('SELECT max(position) FROM counter_events');
is(standby("SELECT esrs_handle_command('counter', $i1, '{\"add\": 4}')"),
	'{"sum": 700}', 'promoted: commands work');
cmp_ok(standby('SELECT max(position) FROM counter_events'), '>', $last, 'positions go on');
is(standby("SELECT string_agg(sequence_number::text, ' ') FROM esrs_feed(ARRAY['counter'])"),
	'1 2 3', 'and the feed is complete');

$standby->stop;
$primary->stop;
done_testing();
