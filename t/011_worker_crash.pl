# Crashes under load: workers, servers and clients end at any moment, and afterwards every
# event has been handled exactly once, in order, by handlers of every kind; a saga has sent
# exactly one command per event.
#
# Catches: a checkpoint that is moved in another transaction than the effects of the
# handler, or before them; one that a crash puts back, or ahead of what was handled; a
# worker that does not come back; two runners with the same events; events that only their
# writer would have handled.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('crash', conf => <<'CONF');
restart_after_crash = on
max_prepared_transactions = 5
max_worker_processes = 12
CONF

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub reaches
{
	my ($condition, $name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = ok(wait_until($node, 'postgres', $condition), $name);
	diag(sql("SELECT * FROM esrs_lag; SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity WHERE datname = 'postgres'")) if !$ok;
	return $ok;
}

# "mirror" is what the saga commands: one command per event of "counter", for the instance
# of the same id, with the position of the event that brought it about
sql('CREATE EXTENSION esrs');
sql(counter_sql('counter') . counter_sql('mirror'));
sql(recorder_sql($_)) for 'each', 'parts', 'total', 'both';
sql(recorder_sql('set', set => 1));
sql(<<'SQL');
CREATE FUNCTION on_saga(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM esrs_handle_command('mirror', (e).aggregate_id, jsonb_build_object('add', (e).position));
END $$;
SELECT esrs_register_handler('each', ARRAY['counter'], 'on_each(esrs_event)', mode => 'async'),
    esrs_register_handler('set', ARRAY['counter'], 'on_set(esrs_event[])', mode => 'async', batch_size => 50),
    esrs_register_handler('parts', ARRAY['counter'], 'on_parts(esrs_event)', mode => 'async', partitions => 3, batch_size => 20),
    esrs_register_handler('total', ARRAY['counter'], 'on_total(esrs_event)', mode => 'async', ordering => 'total'),
    esrs_register_handler('both', ARRAY['counter', 'mirror'], 'on_both(esrs_event)', mode => 'async', batch_size => 1000),
    esrs_register_handler('saga', ARRAY['counter'], 'on_saga(esrs_event)', mode => 'async', batch_size => 10);

-- one row for each event that a handler is for, with how often it was handled
CREATE VIEW times AS
SELECT w.handler, e.aggregate, e.position, e.aggregate_id, e.sequence_number, count(h.nth) AS times
FROM (SELECT 'counter' AS aggregate, position, aggregate_id, sequence_number FROM counter_events
      UNION ALL SELECT 'mirror', position, aggregate_id, sequence_number FROM mirror_events) AS e
JOIN (VALUES ('each', 'counter'), ('set', 'counter'), ('parts', 'counter'), ('total', 'counter'),
        ('both', 'counter'), ('both', 'mirror')) AS w (handler, aggregate) USING (aggregate)
LEFT JOIN handled AS h ON h.handler = w.handler AND h.aggregate = w.aggregate AND h.position = e.position
GROUP BY 1, 2, 3, 4, 5;
SQL

# Clients that append, roll back, sleep with an append open, and call esrs_execute; some
# run handlers themselves.  What becomes of them is no matter.
my $script = "$ENV{TESTDIR}/tmp_check/011_load.sql";
append_to_file($script, <<'SQL');
\set i random(1, 200)
\set n random(1, 3)
\set end random(1, 12)
\set sleep random(0, 3000)
\if :end = 1
CALL esrs_run_handlers('parts', 2);
\elif :end < 4
CALL esrs_execute('counter', lpad(:i::text, 32, '0')::uuid, '{"add": 1}');
\else
BEGIN;
SELECT count(*) FROM esrs_persist('counter', lpad(:i::text, 32, '0')::uuid, array_fill('{"added": 1}'::jsonb, ARRAY[:n::int]));
\sleep :sleep us
\if :end = 4
ROLLBACK;
\else
COMMIT;
\endif
\endif
SQL

my $load;

sub start_load
{
	$load = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', '8', '-j', '2', '-T', '60',
			'-f', $script, '-h', $node->host, '-p', $node->port, 'postgres'
		],
		'<', \undef, '>', '/dev/null', '2>', '/dev/null', IPC::Run::timeout(120));
	return;
}

sub stop_load
{
	$load->signal('TERM');
	eval { $load->finish };
	return;
}

my $worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'esrs worker' ORDER BY random() LIMIT 1";

# kill -9 of a worker takes the whole server through recovery
sub kill_worker
{
	my ($name) = @_;
	my $log = log_size($node);
	my ($pid) = sql($worker) =~ /^(\d+)$/ or die 'no worker';

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(kill('KILL', $pid), 1, "$name: kill -9 of the worker");
	$node->wait_for_log(qr/was terminated by signal 9/, $log);
	stop_load();
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	return;
}

# Wait until everybody has handled everything; nobody appends any more.
sub drained
{
	my ($name) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return reaches("SELECT count(*) = 0 FROM esrs_lag WHERE events_behind > 0", "$name: everything is handled");
}

# Begin to load the server, and let some hundred events come.
my $count = 0;
sub some_load
{
	my $before = sql("SELECT count(*) FROM counter_events");

	start_load();
	ok(wait_until($node, 'postgres', "(SELECT count(*) > $before + 500 FROM counter_events) AND
	    EXISTS ($worker)"), 'load: ' . ++$count);
	return;
}

# ---------------------------------------------------------------------------
# without preloading: handlers go on with the next append, or esrs_start_workers()
# ---------------------------------------------------------------------------

for my $round (1, 2)
{
	some_load();
	kill_worker("without preloading, $round");
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'"), '0', 'without preloading nobody comes by himself');
}
is(sql('SELECT esrs_start_workers()'), 't', 'esrs_start_workers()');
drained('after kill -9');

some_load();
$node->stop('immediate');
stop_load();
$node->start;
# behind whatever was left unhandled
sql('SELECT count(*) FROM esrs_persist(\'counter\', ' . id(1) . ", ARRAY['{\"added\": 1}']::jsonb[])");
drained('after an immediate stop, with the next append');

# ---------------------------------------------------------------------------
# preloaded: they go on by themselves
# ---------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'esrs'");
$node->restart;
reaches("SELECT string_agg(backend_type, ' ' ORDER BY backend_type) LIKE 'esrs launcher%' FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'",
	'preloaded: the launcher runs');
for my $round (1 .. 3)
{
	some_load();
	# a handler that sleeps, so that there is something left
	sql("INSERT INTO slow VALUES ('total', 4)") if $round == 2;
	reaches("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid <> pg_backend_pid())",
		'preloaded: in the middle of a handler') if $round == 2;
	$node->stop('immediate');
	stop_load();
	$node->start;
	sql('DELETE FROM slow');
	reaches("SELECT EXISTS ($worker)", "preloaded: after an immediate stop, $round, a worker is there");
	drained("preloaded, immediate stop $round: with nobody to append");
}
some_load();
kill_worker('preloaded');
reaches("SELECT EXISTS ($worker)", 'preloaded: after kill -9 a worker is there');
drained('preloaded, kill -9: with nobody to append');
$node->stop('fast');
$node->start;

# ---------------------------------------------------------------------------
# esrs_execute, interrupted between the commit and the handler
# ---------------------------------------------------------------------------

configure($node, 'esrs.max_workers' => '0');
reaches(workers('postgres', 0), 'no worker');
sql("INSERT INTO slow VALUES ('each', 60)");
for my $how ('pg_terminate_backend', 'immediate stop')
{
	my $id = id($how =~ /^pg/ ? 901 : 902);
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');

	# asked for without waiting for the end
	$session->{stdin} .= "CALL esrs_execute('counter', $id, '{\"add\": 1}');\n";
	$session->{run}->pump_nb;
	reaches("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid AND wait_event = 'PgSleep')", "esrs_execute, $how: the handler sleeps");
	is(sql("SELECT count(*) FROM counter_events WHERE aggregate_id = $id"), '1', "esrs_execute, $how: the event is committed");
	if ($how =~ /^pg/)
	{
		sql("SELECT pg_terminate_backend($pid, 10000)");
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	eval { $session->quit };
	is(sql("SELECT count(*) FROM handled WHERE handler = 'each' AND aggregate_id = $id"), '0', "esrs_execute, $how: and not handled");
}
sql('DELETE FROM slow');
configure($node, 'esrs.max_workers' => '2');
sql('SELECT esrs_start_workers()');
drained('esrs_execute');
is(sql("SELECT count(*) FROM handled WHERE handler = 'each' AND aggregate_id IN (" . id(901) . ', ' . id(902) . ')'), '2',
	'esrs_execute: the events are handled afterwards, once');

# ---------------------------------------------------------------------------
# the truth
# ---------------------------------------------------------------------------

note(sql("SELECT string_agg(format('%s: %s', handler, n), ', ' ORDER BY handler) FROM (SELECT handler, count(*) AS n FROM times GROUP BY 1) AS t"));
for my $handler ('each', 'set', 'parts', 'total', 'both')
{
	is( sql("SELECT coalesce(string_agg(format('%s %s times', position, times), ', '), 'all once') FROM
	         (SELECT * FROM times WHERE handler = '$handler' AND times <> 1 ORDER BY position LIMIT 10) AS t"),
		'all once', "$handler: every event exactly once");
	is( sql("SELECT count(*) FROM handled WHERE handler = '$handler'"),
		sql("SELECT count(*) FROM times WHERE handler = '$handler'"), "$handler: and nothing else");
	is( sql("SELECT count(*) FROM (SELECT sequence_number - coalesce(lag(sequence_number) OVER
	         (PARTITION BY aggregate, aggregate_id ORDER BY nth), 0) AS step FROM handled WHERE handler = '$handler') AS h WHERE step <> 1"),
		'0', "$handler: each instance in order");
}
is( sql("SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY nth) AS back FROM handled WHERE handler = 'total') AS h WHERE back"),
	'0', 'total: in order of position');
is( sql("SELECT count(*) FROM (SELECT e.position, count(m.position) AS commands FROM counter_events AS e
         LEFT JOIN mirror_events AS m ON m.aggregate_id = e.aggregate_id AND (m.payload ->> 'added')::bigint = e.position
         GROUP BY 1) AS c WHERE commands <> 1"),
	'0', 'saga: exactly one command per event');
is( sql('SELECT count(*) FROM mirror_events'), sql('SELECT count(*) FROM counter_events'), 'saga: and no other');
is( sql("SELECT count(*) FROM (SELECT (payload ->> 'added')::bigint < lag((payload ->> 'added')::bigint) OVER
         (PARTITION BY aggregate_id ORDER BY sequence_number) AS back FROM mirror_events) AS m WHERE back"),
	'0', 'saga: in the order of the events');
is(sql('SELECT count(*) FROM esrs_dead_letters'), '0', 'nothing was given up');
is(sql("SELECT count(*) FROM esrs_check() WHERE severity <> 'warning'"), '0', 'esrs_check() finds nothing');
is(sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), '0', 'no lock is left');

$node->stop;
done_testing();
