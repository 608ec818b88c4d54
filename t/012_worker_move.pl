# Handlers and subscriptions move: to another cluster by dump and restore, to a standby by
# promotion, over a crash with a prepared transaction.  Handlers go on where they were,
# nothing is handled twice or lost; relays outside do not repeat.
#
# Catches: a checkpoint that is not dumped, or that a restored database takes for position
# 0; a copy that sends what the original sends, too; a partial restore that nobody notices;
# a worker during recovery, or none after it; a bound that PREPARE or a crash loses; a
# stranger's old transaction that stalls a handler.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $conf = <<'CONF';
max_prepared_transactions = 5
max_worker_processes = 12
esrs.worker_idle_timeout = 0
CONF
my $node = new_node('source', streaming => 1, conf => $conf);
my $dir = PostgreSQL::Test::Utils::tempdir();

# sql(STATEMENTS, SERVER, DATABASE)
sub sql { return ($_[1] || $node)->safe_psql($_[2] || 'postgres', $_[0]) }

sub reaches
{
	my ($condition, $name, $where, $database) = @_;

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $ok = ok(wait_until($where || $node, $database || 'postgres', $condition), $name);
	diag(sql("SELECT * FROM esrs_lag; SELECT pid, backend_type, state, wait_event, query FROM pg_stat_activity WHERE backend_type LIKE 'esrs%'",
			$where, $database)) if !$ok;
	return $ok;
}

# the SQLSTATE of a statement
sub sqlstate
{
	my ($statement, $where, $database) = @_;
	my (undef, undef, $stderr) =
	  ($where || $node)->psql($database || 'postgres', "\\set VERBOSITY sqlstate\n$statement;");

	return $stderr =~ /ERROR:\s+(\w{5})/ ? $1 : '00000';
}

sub append
{
	my ($n, $instance, $where, $database) = @_;

	return sql("SELECT count(*) FROM esrs_persist('counter', " . id($instance) .
		  ", array_fill('{\"added\": 1}'::jsonb, ARRAY[$n]))", $where, $database);
}

# A condition: these handlers have handled every event of "counter" once, but for some.
sub complete
{
	my ($handlers, $but) = @_;
	my $list = join(', ', map { "'$_'" } @$handlers);

	$but ||= 'false';
	return "SELECT count(*) = 0 FROM (SELECT e.position, w.handler, count(h.nth) AS times FROM counter_events AS e
	        CROSS JOIN unnest(ARRAY[$list]) AS w(handler)
	        LEFT JOIN handled AS h ON h.handler = w.handler AND h.position = e.position
	        WHERE NOT ($but) GROUP BY 1, 2) AS t WHERE times <> 1";
}

my $any_worker = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'esrs worker'";

sql('CREATE EXTENSION esrs');
sql(counter_sql('counter'));
sql(recorder_sql($_)) for 'each', 'parts', 'total', 'paused';
sql(<<'SQL');
-- cannot handle every event, until it is mended
CREATE TABLE broken (broken boolean);
INSERT INTO broken VALUES (true);
CREATE FUNCTION on_picky(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT broken FROM public.broken) AND (e).sequence_number = 2 THEN
        RAISE 'not the second';
    END IF;
    INSERT INTO public.handled (handler, aggregate, aggregate_id, sequence_number, position)
    SELECT 'picky', (e).aggregate, (e).aggregate_id, (e).sequence_number, (e).position;
END $$;
SELECT esrs_register_handler('each', ARRAY['counter'], 'on_each(esrs_event)', mode => 'async'),
    esrs_register_handler('parts', ARRAY['counter'], 'on_parts(esrs_event)', mode => 'async', partitions => 3),
    esrs_register_handler('total', ARRAY['counter'], 'on_total(esrs_event)', mode => 'async', ordering => 'total'),
    esrs_register_handler('paused', ARRAY['counter'], 'on_paused(esrs_event)', mode => 'async'),
    esrs_register_handler('picky', ARRAY['counter'], 'on_picky(esrs_event)', mode => 'async', on_error => 'park', max_attempts => 1),
    esrs_subscribe('sub', ARRAY['counter'], start_at => 'beginning'),
    esrs_subscribe('idle', ARRAY['counter']);
SQL
$node->backup('empty');

# ---------------------------------------------------------------------------
# a prepared transaction
# ---------------------------------------------------------------------------

append(3, 1);
sql("SELECT esrs_pause_handler('paused')") if wait_until($node, 'postgres', complete([ 'paused', 'total' ]));
sql("BEGIN; SELECT esrs_handle_command('counter', " . id(2) . ", '{\"add\": 1}'); PREPARE TRANSACTION 'held'");
append(2, 3);

reaches(complete([ 'each', 'parts' ]), 'prepared: handlers in order per aggregate do not wait');
my $blockers = 'SELECT aggregate, pid, prepared_transaction, since IS NOT NULL FROM esrs_feed_blockers';
is(sql($blockers), 'counter||held|t', 'prepared: esrs_feed_blockers names it');
is(sql("SELECT count(*) FROM handled WHERE handler = 'total'"), '3', 'prepared: one in total order waits');
$node->stop('immediate');
$node->start;
append(1, 3);
reaches(complete([ 'each', 'parts' ]), 'prepared, after an immediate stop: the others go on');
is(sql($blockers), 'counter||held|t', 'prepared, after an immediate stop: it is there');
is(sql("SELECT count(*) FROM handled WHERE handler = 'total'"), '3', 'prepared, after an immediate stop: total order waits');
is(sql("SELECT events_behind, safe_position < head FROM esrs_lag WHERE handler = 'total'"), '3|t', 'prepared: esrs_lag shows it');
my $begin = sql('SELECT clock_timestamp()');
sql("COMMIT PREPARED 'held'");
reaches(complete([ 'each', 'parts', 'total' ]), 'COMMIT PREPARED, and nobody to tell it: all is handled');
my $within = sql("SELECT round(1000 * extract(epoch FROM max(at) - '$begin')) FROM handled");
note("within $within ms");
cmp_ok($within, '<', 10000, 'COMMIT PREPARED: soon, as the worker looks around');
is(sql("SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY nth) AS back FROM handled WHERE handler = 'total') AS h WHERE back"),
	'0', 'COMMIT PREPARED: in total order');

# ---------------------------------------------------------------------------
# old transactions of strangers
# ---------------------------------------------------------------------------

sql('CREATE DATABASE elsewhere');
sql('CREATE TABLE strange (n int)', $node, $_) for 'elsewhere', 'postgres';
my @strangers = map { $node->background_psql($_) } 'elsewhere', 'postgres';
$_->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO strange VALUES (1)') for @strangers;
append(2, 4);
reaches(complete([ 'each', 'parts', 'total' ]), 'old transactions, elsewhere and of another table: nobody waits');
is(sql('SELECT count(*) FROM esrs_feed_blockers'), '0', 'old transactions: none is a blocker');
is(sql("SELECT count(*) FROM esrs_lag WHERE safe_position <> head"), '0', 'old transactions: and the safe position is the head');
$_->query_safe('ROLLBACK') for @strangers;
$_->quit for @strangers;

# ---------------------------------------------------------------------------
# dump and restore
# ---------------------------------------------------------------------------

# consumers in all conditions: a subscription of which the first half is acknowledged, and
# the next polled; a handler that is ahead of its checkpoint; events that nobody has handled
sql("SELECT count(*) FROM esrs_poll('sub', max => 4, owner => 'a')");
my $acknowledged = sql("SELECT esrs_ack('sub', p, 'a'), p FROM (SELECT max(position) FROM (SELECT position FROM esrs_feed(ARRAY['counter']) LIMIT 4) AS f) AS m(p)") =~ s/^\|//r;
is(sql("SELECT count(*) FROM esrs_poll('sub', max => 2, owner => 'a', lease => '1 h')"), '2', 'a subscription is leased');
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; SELECT esrs_handle_command('counter', " . id(5) . ", '{\"add\": 1}')");
append(2, 6);
reaches(complete([ 'each', 'parts' ]), 'ahead of a writer');
reaches("SELECT count(*) > 0 FROM esrs_dead_letters", 'with dead letters');
configure($node, 'esrs.max_workers' => '0');
reaches("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'esrs worker'", 'no worker');
$writer->query_safe('ROLLBACK');
$writer->quit;
append(2, 7);
is(sql("SELECT count(*) > 0 FROM esrs.checkpoints WHERE name = 'each' AND ahead <> '{}'"), 't', 'a checkpoint has positions ahead');

my $where = "SELECT c.* FROM esrs.checkpoints AS c ORDER BY name, partition;
    SELECT d.* FROM esrs.dead_letters AS d ORDER BY handler, position;
    SELECT s.* FROM esrs.subscriptions AS s ORDER BY name; SELECT h.* FROM esrs_handlers AS h ORDER BY name;
    SELECT last_value FROM esrs.position_seq";
my $picture = sql($where);
command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", '-d', $node->connstr('postgres') ], 'dumped');
configure($node, 'esrs.max_workers' => '2');

my $target = new_node('target', conf => $conf);
command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', $target->connstr('postgres'), "$dir/dump" ], 'restored in another cluster');
is(sql($where, $target), $picture, 'restored: everybody is where he was');
is(sql($any_worker, $target), '0', 'restored: and waits');
is(sqlstate("SELECT esrs_poll('sub', owner => 'a')", $target), '55000', 'restored: a subscription is refused to whoever leased it');
is(sqlstate("SELECT esrs_poll('idle')", $target), '55000', 'restored: so is another');
sql('SELECT esrs_start_workers()', $target);
reaches(complete([ 'each', 'parts', 'total' ]), 'restored: handlers go on where they were, nothing twice', $target);
is(sql("SELECT count(*) FROM handled WHERE handler = 'paused'", $target), '3', 'restored: one that was paused is');
sql("SELECT esrs_resume_handler('paused')", $target);
reaches(complete(['paused']), 'restored: until it is resumed', $target);
reaches(complete(['picky'], 'e.sequence_number > 1'), 'restored: what was parked is', $target);
is(sql("UPDATE broken SET broken = false; SELECT esrs_retry_dead_letters('picky') > 3", $target), 't', 'restored: dead letters can be retried');
is(sql(complete(['picky']), $target), 't', 'restored: and are handled once');
append(2, 8, $target);
reaches(complete([ 'each', 'parts', 'total', 'paused', 'picky' ]), 'restored: new events are handled', $target);
is(sqlstate("SELECT esrs_poll('idle')", $target), '55000', 'restored: subscriptions stay refused');
sql("SELECT esrs_resume_handler('sub')", $target);
my $polled = "SELECT string_agg(position::text, ' ' ORDER BY position) FROM esrs_poll('sub', owner => 'b')";
is(sql($polled, $target), sql("SELECT string_agg(position::text, ' ' ORDER BY position) FROM counter_events WHERE position > $acknowledged", $target),
	'restored: a subscription that is resumed goes on behind what was acknowledged');
is(sqlstate("SELECT esrs_poll('idle')", $target), '55000', 'restored: and only that one');
is(sql("SELECT count(*) FROM esrs_check() WHERE severity <> 'warning'", $target), '0', 'restored: esrs_check() finds nothing');

# the original is none the wiser
sql('SELECT esrs_start_workers()');
reaches(complete([ 'each', 'parts', 'total' ]), 'the original goes on, too');
is(sqlstate("SELECT esrs_poll('sub', owner => 'a')"), '00000', 'and its subscriptions');

# ---------------------------------------------------------------------------
# restored in part
# ---------------------------------------------------------------------------

# restore(DATABASE, what is to be left out): of the dump's table of contents
sub restore
{
	my ($database, @without) = @_;
	my ($toc, $stderr) = run_command([ 'pg_restore', '-l', "$dir/dump" ]);

	for my $entry (@without)
	{
		isnt($toc =~ s/^(\d+; \d+ \d+ $entry )/;$1/mg, '', "$database: without $entry");
	}
	append_to_file("$dir/$database.toc", $toc);
	sql("CREATE DATABASE $database", $target);
	command_ok([ 'pg_restore', '--exit-on-error', '-L', "$dir/$database.toc", '-d', $target->connstr($database), "$dir/dump" ],
		"$database: restored");
	return;
}
my $findings = 'SELECT severity, object, problem FROM esrs_check() WHERE severity <> $$warning$$ ORDER BY 1, 2, 3';

restore('nosequence', 'SEQUENCE SET esrs position_seq');
my $last = sql('SELECT max(position) FROM counter_events', $target, 'nosequence');
like(sql($findings, $target, 'nosequence'), qr/^repaired\|counter\|position $last /m, 'nosequence: esrs_check() puts the sequence behind the events');
is(sql($findings, $target, 'nosequence'), '', 'nosequence: once');
append(1, 9, $target, 'nosequence');
reaches(complete([ 'each', 'parts', 'total' ]), 'nosequence: everything is handled, once', $target, 'nosequence');

# handlers without events or sequence: their positions would be given to other events
restore('noevents', 'SEQUENCE SET esrs position_seq', 'TABLE DATA public counter_events', 'TABLE DATA public handled');
isnt(sql($findings, $target, 'noevents'), '', 'noevents: esrs_check() notices');
append(2, 1, $target, 'noevents');
reaches(complete([ 'each', 'parts', 'total' ]), 'noevents: new events are handled, once', $target, 'noevents');

# what is not known is not taken for the beginning
restore('nocheckpoints', 'TABLE DATA esrs checkpoints');
my $known = sql('SELECT count(*) FROM handled', $target, 'nocheckpoints');
append(1, 9, $target, 'nocheckpoints');
like(sql($findings, $target, 'nocheckpoints'), qr/^error\|$_\|.*checkpoint/m, "nocheckpoints: esrs_check() finds that \"$_\" has none")
  for 'each', 'parts', 'total', 'sub';
is(sql("SELECT esrs_resume_handler('sub'); SELECT count(*) FROM esrs_poll('sub')", $target, 'nocheckpoints'), "\n0", 'nocheckpoints: a poll gets nothing');
is(sql("CALL esrs_run_handlers(); SELECT count(*) FROM handled", $target, 'nocheckpoints'), $known, 'nocheckpoints: handlers do nothing');
sql("SELECT esrs_reset_handler(name, (SELECT max(position) - 1 FROM counter_events)) FROM unnest(ARRAY['each', 'parts', 'total', 'paused', 'picky', 'sub', 'idle']) AS name",
	$target, 'nocheckpoints');
reaches("SELECT count(*) = 3 FROM handled WHERE aggregate_id = " . id(9) . " AND handler IN ('each', 'parts', 'total')",
	'nocheckpoints: esrs_reset_handler() says where they go on', $target, 'nocheckpoints');
is(sql($findings, $target, 'nocheckpoints'), '', 'nocheckpoints: then esrs_check() finds nothing');
$target->stop;

# ---------------------------------------------------------------------------
# standby and promotion
# ---------------------------------------------------------------------------

my %standby;
for my $name ('plain', 'preloaded')
{
	$standby{$name} = PostgreSQL::Test::Cluster->new($name);
	$standby{$name}->init_from_backup($node, 'empty', has_streaming => 1);
	$standby{$name}->append_conf('postgresql.conf', "shared_preload_libraries = 'esrs'") if $name eq 'preloaded';
	$standby{$name}->start;
}
sub catch_up { $node->wait_for_catchup($_) for values %standby; return }

sql("BEGIN; SELECT esrs_handle_command('counter', " . id(10) . ", '{\"add\": 1}'); PREPARE TRANSACTION 'travels'");
configure($node, 'esrs.max_workers' => '0');
reaches("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'esrs worker'", 'no worker');
append(2, 11);
catch_up();
for my $name ('plain', 'preloaded')
{
	my $s = $standby{$name};

	is(sql($any_worker, $s), '0', "standby, $name: no worker");
	is(sql("SELECT handler, partition, status, position, safe_position, events_behind FROM esrs_lag WHERE handler IN ('each', 'total')", $s),
		sql("SELECT handler, partition, status, position, NULL, events_behind FROM esrs_lag WHERE handler IN ('each', 'total')"),
		"standby, $name: esrs_lag works");
	is(sql($_, $s), sql($_), "standby, $name: $_")
	  for 'SELECT * FROM esrs_handlers ORDER BY name', 'SELECT * FROM esrs_dead_letters ORDER BY handler, position',
	  'SELECT name, status, position, lease_owner FROM esrs_subscriptions ORDER BY name';
	is(sql('SELECT count(*) FROM esrs_feed_blockers', $s), '0', "standby, $name: esrs_feed_blockers works");
	is(sqlstate($_, $s), '25006', "standby, $name: $_ is refused")
	  for "SELECT esrs_wait_for('each')", "CALL esrs_run_handlers()", "CALL esrs_run_handlers('each')",
	  "CALL esrs_execute('counter', " . id(1) . ", '{\"add\": 1}')",
	  "SELECT esrs_poll('sub', owner => 'a')", "SELECT esrs_ack('sub', 1, 'a')", "SELECT esrs_nack('sub', 'a')",
	  "SELECT esrs_subscribe('new', ARRAY['counter'])", "SELECT esrs_unsubscribe('sub')",
	  "SELECT esrs_pause_handler('each')", "SELECT esrs_resume_handler('each')", "SELECT esrs_reset_handler('each', 0)",
	  "SELECT esrs_alter_handler('each', '{}')", "SELECT esrs_unregister_handler('each')",
	  "SELECT esrs_retry_dead_letters('picky')", "SELECT esrs_discard_dead_letters('picky')", 'SELECT esrs_start_workers()';
	is(sql('SELECT esrs_stop_workers()', $s), '0', "standby, $name: there is no worker to stop");
}

$node->stop('immediate');
for my $name ('plain', 'preloaded')
{
	my $s = $standby{$name};

	$s->promote;
	if ($name eq 'plain')
	{
		is(sql($any_worker, $s), '0', "$name, promoted: nobody comes by himself");
		append(1, 12, $s);
	}
	reaches(complete([ 'each', 'parts' ]), "$name, promoted: handlers go on" . ($name eq 'plain' ? ' with the next append' : ' by themselves'), $s);
	is(sql($blockers, $s), 'counter||travels|t', "$name, promoted: a prepared transaction has come along");
	is(sql(complete(['total']), $s), 'f', "$name, promoted: and holds total order back");
	sql("COMMIT PREPARED 'travels'", $s);
	reaches(complete([ 'each', 'parts', 'total' ]), "$name, promoted: until it is committed", $s);
	is(sqlstate("SELECT esrs_poll('sub', owner => 'a')", $s), '00000', "$name, promoted: subscriptions go on, too");
	$s->stop;
}

done_testing();
