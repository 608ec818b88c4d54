# Subscriptions, commands and handlers through PgBouncer in transaction mode: two clients
# share one server connection, and neither notices.
#
# Catches: anything that is kept in the session though it is the client's - the lease of a
# subscription, a lock, a setting; a procedure that commits in between and confuses the
# pooler.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my ($program) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
plan skip_all => 'pgbouncer is not installed' if !$program;
plan skip_all => 'no Unix sockets' if !$PostgreSQL::Test::Utils::use_unix_sockets;

my $node = new_node('pooler');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql(counter_sql('counter') . recorder_sql('async'));
sql("SELECT esrs_register_handler('async', ARRAY['counter'], 'on_async(esrs_event)', mode => 'async')");

# ---------------------------------------------------------------------------
# the pooler: one server connection, on a socket of its own
# ---------------------------------------------------------------------------

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
my $log = "$PostgreSQL::Test::Utils::log_path/013_pooler_pgbouncer.log";
my $user = sql('SELECT current_user');
my ($host, $server_port) = ($node->host, $node->port);
append_to_file("$dir/pgbouncer.ini", <<INI);
[databases]
postgres = host=$host port=$server_port dbname=postgres user=$user
[pgbouncer]
pool_mode = transaction
default_pool_size = 1
max_client_conn = 50
listen_addr =
listen_port = $port
unix_socket_dir = $dir
auth_type = any
logfile = $log
pidfile = $dir/pid
INI
my $pooler = IPC::Run::start([ $program, '-q', "$dir/pgbouncer.ini" ], '<', \undef, '>', '/dev/null', '2>', '/dev/null');
my $connection = "host=$dir port=$port dbname=postgres user=$user";
END
{
	# whatever goes wrong
	local $?;
	$pooler->kill_kill if $pooler;
}

my $tries = 0;
while (system_log('psql', '-XAtqc', 'SELECT 1', '-d', $connection) != 0)
{
	die "pgbouncer does not start, see $log" if $tries++ > 100;
	select(undef, undef, undef, 0.1);
}

# A session through the pooler that stays open, as BackgroundPsql makes one.
sub client
{
	my %client = (in => '', out => '', n => 0);

	$client{run} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $connection ],
		'<', \$client{in}, '>', \$client{out}, '2>&1', IPC::Run::timeout(120));
	return \%client;
}

# What a client is told, errors included.
sub ask
{
	my ($client, $statement) = @_;
	my $end = 'END ' . ++$client->{n};

	$client->{out} = '';
	$client->{in} .= "$statement\n;\n\\echo '$end'\n";
	$client->{run}->pump until $client->{out} =~ /^$end\n/m;
	return $client->{out} =~ s/^$end\n//mr =~ s/\n$//r;
}

my ($one, $two) = (client(), client());
is(ask($one, 'SELECT pg_backend_pid()'), ask($two, 'SELECT pg_backend_pid()'), 'two clients share one server connection');

# ---------------------------------------------------------------------------
# commands, and notifications to a direct connection
# ---------------------------------------------------------------------------

my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN counter_events');

is(ask($one, "SELECT esrs_subscribe('sub', ARRAY['counter'])"), '', 'a subscription');
is(ask($one, 'SELECT esrs_handle_command(\'counter\', ' . id(1) . ", '{\"add\": 1}')"), '{"sum": 1}', 'a command of the first client');
is(ask($two, 'SELECT esrs_handle_command(\'counter\', ' . id(1) . ", '{\"add\": 2}', expected_sequence => 1)"), '{"sum": 3}', 'of the second');
is(ask($one, "BEGIN;\nSELECT esrs_handle_command('counter', " . id(1) . ", '{\"add\": 10}');\nSELECT esrs_handle_command('counter', " .
		  id(2) . ", '{\"add\": 1}');\nCOMMIT"),
	"{\"sum\": 13}\n{\"sum\": 1}", 'a transaction of several');
like(ask($two, 'SELECT esrs_handle_command(\'counter\', ' . id(1) . ", '{\"wrong\": 1}')"), qr/^ERROR:  ZE001: /, 'a rejection');
is(ask($two, 'SELECT ok FROM esrs_try_command(\'counter\', ' . id(1) . ", '{\"add\": 1}', command_id => " . id(7) . ')'), 't', 'one with an id');
is(ask($one, 'SELECT state FROM esrs_try_command(\'counter\', ' . id(1) . ", '{\"add\": 1}', command_id => " . id(7) . ')'), '{"sum": 14}', 'again, from another client');
ok(wait_until($node, 'postgres', "SELECT count(*) = 5 FROM handled"), 'the worker handles what came through the pooler');
my $heard = 0;
for (1 .. 200)
{
	$heard += () = $listener->query_safe('SELECT 1') =~ /^Asynchronous notification "counter_events"/mg;
	last if $heard >= 5;
	select(undef, undef, undef, 0.05);
}
is($heard, 5, 'and a direct connection hears of it');
$listener->quit;

# ---------------------------------------------------------------------------
# the lease is the owner's, not the session's
# ---------------------------------------------------------------------------

# the numbers of the events that a poll brings
sub poll
{
	my ($client, $owner, $options) = @_;

	return ask($client, "SELECT string_agg(right(aggregate_id::text, 1) || '/' || sequence_number, ' ' ORDER BY position)
	    FROM esrs_poll('sub', owner => '$owner'" . ($options || '') . ')');
}
sub ack
{
	my ($client, $owner, $event) = @_;
	my ($instance, $number) = split /\//, $event;

	return ask($client, "SELECT esrs_ack('sub', (SELECT position FROM counter_events WHERE sequence_number = $number AND aggregate_id = " .
		  id($instance) . "), '$owner')");
}
is(poll($one, 'one', ', max => 3'), '1/1 1/2 1/3', 'a client polls');
like(poll($two, 'two'), qr/^ERROR:  55006: /, 'another owner has to wait, on the same server connection');
is(poll($two, 'one', ', max => 2'), '1/1 1/2', 'the same owner gets the same, by whichever client');
like(ack($one, 'two', '1/2'), qr/^ERROR:  40001: /, 'who has no lease cannot acknowledge');
is(ack($one, 'one', '1/2'), '', 'who has it can, by whichever client');
is(ack($two, 'one', '1/2'), '', 'and once more');
is(poll($two, 'two', ", lease => '300 ms'"), '1/3 2/1 1/4', 'then the next is another\'s');
is(ask($two, "SELECT esrs_nack('sub', 'two', error => 'broken')"), '', 'who gives it back');
is(ask($one, "SELECT attempts, last_error, lease_owner IS NULL FROM esrs_subscriptions"), '1|broken|t', 'and all clients see it');

# a client that goes away with a lease
my $third = client();
is(poll($third, 'gone', ", lease => '300 ms'"), '1/3 2/1 1/4', 'a client polls');
$third->{run}->kill_kill;
ok(wait_until($node, 'postgres', 'SELECT lease_until < clock_timestamp() FROM esrs_subscriptions'), 'and dies');
is(poll($one, 'one'), '1/3 2/1 1/4', 'when its lease has ended, another gets the events');
is(ack($one, 'one', '1/4'), '', 'and acknowledges them');
is(poll($one, 'one'), '', 'nothing is left');

# ---------------------------------------------------------------------------
# procedures, which commit
# ---------------------------------------------------------------------------

like(ask($one, 'CALL esrs_execute(\'counter\', ' . id(3) . ", '{\"add\": 5}')"), qr/^\(t,.*"\{""sum"": 5\}"/, 'esrs_execute');
is(sql('SELECT count(*) FROM handled WHERE aggregate_id = ' . id(3)), '1', 'esrs_execute: the event is handled when it returns');
like(ask($two, 'CALL esrs_execute(\'counter\', ' . id(3) . ", '{\"wrong\": 5}')"), qr/^\(f,.*ZE001/, 'esrs_execute: a rejection');
like(ask($two, "BEGIN;\nCALL esrs_execute('counter', " . id(3) . ", '{\"add\": 1}');\nCOMMIT"), qr/^NOTICE: .*event handlers run later/, 'esrs_execute in a block');
is(ask($one, "SELECT esrs_wait_for('async')"), 't', 'esrs_wait_for');
is(ask($one, "SELECT esrs_pause_handler('async')"), '', 'a pause');
ask($two, 'SELECT esrs_handle_command(\'counter\', ' . id(3) . ", '{\"add\": 1}')");
is(ask($two, "SELECT esrs_wait_for('async', timeout => '100 ms')"), 'f', 'is one for all');
ask($one, "SELECT esrs_resume_handler('async')");
is(ask($two, "CALL esrs_run_handlers('async')"), '', 'esrs_run_handlers');
ok(wait_until($node, 'postgres', 'SELECT count(*) = 3 FROM handled WHERE aggregate_id = ' . id(3)), 'handled');
is(ask($one, 'SELECT pg_backend_pid()'), ask($two, 'SELECT pg_backend_pid()'), 'still one server connection');

# ---------------------------------------------------------------------------
# many clients, and two consumers that take turns
# ---------------------------------------------------------------------------

my $first = sql('SELECT last_value FROM esrs.position_seq');
my $script = "$dir/load.sql";
append_to_file($script, <<'SQL');
\set i random(1, 9)
\set end random(1, 5)
\if :end = 1
CALL esrs_execute('counter', lpad(:i::text, 32, '0')::uuid, '{"add": 1}');
\else
SELECT esrs_handle_command('counter', lpad(:i::text, 32, '0')::uuid, '{"add": 1}');
\endif
SQL
my ($out, $err) = ('', '');
my $bench = IPC::Run::start([ 'pgbench', '-n', '-M', 'extended', '-c', '8', '-j', '2', '-t', '50', '-f', $script, $connection ],
	'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout(120));
my (@consumed, @errors, $idle);
until (defined $idle && $idle > 20)
{
	my $running = $bench->pumpable;

	for ([ $one, 'one' ], [ $two, 'two' ])
	{
		my ($client, $owner) = @$_;
		my $positions = ask($client, "SELECT string_agg(position::text, ' ' ORDER BY nth) FROM esrs_poll('sub', max => 25, owner => '$owner')
		    WITH ORDINALITY AS p(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, nth)");

		if ($positions !~ /^\d+( \d+)*$/)
		{
			push @errors, $positions if $positions ne '';
			$idle++ if !$running || @errors;
			next;
		}
		$idle = 0;
		push @consumed, split / /, $positions;
		my $answer = ask($client, "SELECT esrs_ack('sub', " . (sort { $a <=> $b } split / /, $positions)[-1] . ", '$owner')");
		push @errors, $answer if $answer ne '';
	}
	$bench->pump_nb if $running;
}
$bench->finish;
like($out, qr/number of transactions actually processed: 400\/400\n.*number of failed transactions: 0 /s, 'no client sees an error');
is($err, '', 'nor a warning');
is("@errors", '', 'nor a consumer');
my %instance = map { split /\|/ } split /\n/, sql("SELECT position, aggregate_id FROM counter_events WHERE position >= $first");
my @events = sort { $a <=> $b } keys %instance;
cmp_ok(scalar(@events), '>', 400, 'consumers: there was something to do');
my (%seen, %last, @back);
for (@consumed)
{
	my $instance = $instance{$_} || 'nobody';

	$seen{$_}++;
	push @back, $_ if ($last{$instance} || 0) >= $_;
	$last{$instance} = $_;
}
is(join(' ', grep { !$seen{$_} } @events), '', 'consumers: nothing lost');
is(join(' ', grep { $seen{$_} > 1 } sort keys %seen), '', 'consumers: and, as no lease was lost, nothing twice');
is("@back", '', 'consumers: each instance in order');
ok(wait_until($node, 'postgres', 'SELECT count(*) = (SELECT count(*) FROM counter_events) AND count(DISTINCT position) = count(*) FROM handled'),
	'the handler: every event once');
is(sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no lock is left');

for ($one, $two)
{
	$_->{in} .= "\\q\n";
	$_->{run}->finish;
}
$pooler->signal('INT');
$pooler->finish;
undef $pooler;
$node->stop;
done_testing();
