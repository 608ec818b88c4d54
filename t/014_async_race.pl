# The race for those who consume events: asynchronous handlers in both orders, set-based and
# in partitions, run by workers and by CALL at once, and subscriptions that are polled.
# Sixteen writers append to two aggregates, with savepoints, rollbacks and, two thirds of
# them, sleeps between the append and the commit.  Every consumer gets each committed event
# once and in its order.
#
# Beside them read: "naive" (position > checkpoint), which must lose events, or the race was
# none; and "mutant" and "twin", which work out the bound from pg_locks as anybody could.
# The mutant does it inside the statement that reads, so its snapshot is older than the bound,
# and it must lose events; its twin does it in a statement before, and must not.
#
# Catches: a bound that is taken after the snapshot, or published after the position was
# drawn, or released too early; an event ahead of the checkpoint that is forgotten or handled
# again; two runners of one partition at once; a partition that takes another's instance; a
# wake-up that is lost while writers stop.
#
# scripts/test --long: at least 200,000 events.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $wanted = $ENV{ESRS_LONG} ? 200_000 : 1;    # events, at least
my $seconds = $ENV{ESRS_LONG} ? 20 : 8;        # of load, at a time

my $node = new_node('async_race', conf => <<'CONF');
shared_buffers = 128MB
autovacuum = off
esrs.max_workers = 3
CONF

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql(counter_sql('race') . counter_sql('other'));
sql(<<'SQL');
CREATE TABLE control (stop boolean);
INSERT INTO control VALUES (false);

-- what each consumer got, in the order in which it got it; the same again is an error
CREATE UNLOGGED TABLE delivered (consumer text, nth bigserial, aggregate text, id uuid, position bigint,
    aggregate_id uuid, sequence_number int, pid int DEFAULT pg_backend_pid(), UNIQUE (consumer, id));

CREATE FUNCTION on_aggregate(e esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO delivered (consumer, aggregate, id, position, aggregate_id, sequence_number)
    VALUES ('aggregate', e.aggregate, e.id, e.position, e.aggregate_id, e.sequence_number);
END;
CREATE FUNCTION on_total(e esrs_event[]) RETURNS void BEGIN ATOMIC
    INSERT INTO delivered (consumer, aggregate, id, position, aggregate_id, sequence_number)
    SELECT 'total', x.aggregate, x.id, x.position, x.aggregate_id, x.sequence_number FROM unnest(e) AS x;
END;
CREATE FUNCTION on_partitions(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO delivered (consumer, aggregate, id, position, aggregate_id, sequence_number)
    VALUES ('partitions', e.aggregate, e.id, e.position, e.aggregate_id, e.sequence_number);
END $$;
SELECT esrs_register_handler('aggregate', '{race,other}', 'on_aggregate(esrs_event)', mode => 'async',
    start_at => 'beginning', max_attempts => 1);
SELECT esrs_register_handler('total', '{race,other}', 'on_total(esrs_event[])', mode => 'async', ordering => 'total',
    start_at => 'beginning', max_attempts => 1, batch_size => 1000);
SELECT esrs_register_handler('partitions', '{race,other}', 'on_partitions(esrs_event)', mode => 'async',
    partitions => 2, start_at => 'beginning', max_attempts => 1, batch_size => 50);
SELECT esrs_subscribe('sub_aggregate', '{race,other}', 'aggregate');
SELECT esrs_subscribe('sub_total', '{race,other}', 'total');

-- Reads on from a checkpoint of its own, until the writers have stopped and nothing is
-- left.  A batch and the checkpoint are one transaction.  "bound" comes first, if it is
-- not null.
CREATE PROCEDURE consume(consumer text, bound text, query text) LANGUAGE plpgsql AS $$
DECLARE
    checkpoint bigint := 0;
    safe bigint;
    batch bigint;
    stopped boolean;
BEGIN
    LOOP
        SELECT stop INTO stopped FROM control;
        COMMIT;
        IF bound IS NOT NULL THEN
            EXECUTE bound INTO safe;
        END IF;
        EXECUTE format('WITH b AS (%s), i AS (INSERT INTO delivered (consumer, aggregate, id, position, aggregate_id, sequence_number)
                SELECT %L, ''race'', id, position, aggregate_id, sequence_number FROM b)
            SELECT count(*), coalesce(max(position), $1) FROM b', query, consumer)
            INTO batch, checkpoint USING checkpoint, safe;
        COMMIT;
        EXIT WHEN stopped AND batch = 0;
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;

-- Polls, takes note in a transaction of its own, and acknowledges in two steps.
CREATE PROCEDURE poll(subscription text) LANGUAGE plpgsql AS $$
DECLARE
    events esrs_event[];
    stopped boolean;
BEGIN
    LOOP
        SELECT stop INTO stopped FROM control;
        COMMIT;
        SELECT array_agg(p ORDER BY n) INTO events
          FROM (SELECT (aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata)::esrs_event, n
                  FROM esrs_poll(subscription, 500, owner => subscription)
                  WITH ORDINALITY AS q(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, n)) AS x(p, n);
        COMMIT;
        EXIT WHEN stopped AND events IS NULL;
        IF events IS NULL THEN
            PERFORM pg_sleep(0.001);
            CONTINUE;
        END IF;
        INSERT INTO delivered (consumer, aggregate, id, position, aggregate_id, sequence_number)
        SELECT subscription, x.aggregate, x.id, x.position, x.aggregate_id, x.sequence_number FROM unnest(events) AS x;
        COMMIT;
        PERFORM esrs_ack(subscription, events[cardinality(events) / 2].position, subscription)
          WHERE cardinality(events) > 1;
        COMMIT;
        PERFORM esrs_ack(subscription, events[cardinality(events)].position, subscription);
        COMMIT;
    END LOOP;
END $$;

-- The worker's competitor.
CREATE PROCEDURE compete() LANGUAGE plpgsql AS $$
DECLARE
    stopped boolean;
BEGIN
    LOOP
        SELECT stop INTO stopped FROM control;
        COMMIT;
        CALL esrs_run_handlers();
        EXIT WHEN stopped;
        PERFORM pg_sleep(0.005);
    END LOOP;
END $$;

-- The sequence first, the locks afterwards.
CREATE FUNCTION bound() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    head bigint := (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM esrs.position_seq);
BEGIN
    RETURN least(head, (SELECT min(l.objid::bigint) FROM pg_locks AS l
        WHERE l.locktype = 'advisory' AND l.objsubid = -6843 AND l.classid = esrs.lock_hash('race')));
END $$;
SQL

my $read = 'SELECT id, position, aggregate_id, sequence_number FROM race_events WHERE position > $1';
my %calls = (
	naive => "consume('naive', NULL, \$q\$$read ORDER BY position LIMIT 100000\$q\$)",
	mutant => "consume('mutant', NULL, \$q\$$read AND position <= (SELECT bound()) ORDER BY position LIMIT 100000\$q\$)",
	twin => "consume('twin', 'SELECT bound()', \$q\$$read AND position <= \$2 ORDER BY position LIMIT 100000\$q\$)",
	sub_aggregate => "poll('sub_aggregate')",
	sub_total => "poll('sub_total')",
	compete => 'compete()');

my %running;
for my $name (sort keys %calls)
{
	my ($out, $err) = ('', '');

	$running{$name} = {
		err => \$err,
		run => IPC::Run::start(
			[
				$node->installed_command('psql'), '-XAtq', '-v', 'ON_ERROR_STOP=1',
				'-d', $node->connstr('postgres'), '-c', "CALL $calls{$name}"
			],
			'<', \undef, '>', \$out, '2>', \$err, IPC::Run::timeout($ENV{ESRS_LONG} ? 900 : 240))
	};
}
ok( wait_until($node, 'postgres', 'SELECT count(*) = ' . keys(%calls)
		  . " FROM pg_stat_activity WHERE query ~ '^CALL (consume|poll|compete)'"),
	'the consumers start');

# two instances a transaction, in ascending order, so that no writer deadlocks
my $writer = <<'SQL';
\set a random(1, 200)
\set b random(201, 400)
\set n random(1, 4)
\set sleep1 random(0, 4000)
\set sleep2 random(0, 4000)
\set end random(1, 20)
\set two random(1, 3)
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM esrs_persist('race', lpad(:a::text, 32, '0')::uuid,
    array_fill('{"added": 1}'::jsonb, ARRAY[:n::int]));
SLEEP :sleep1 us
\if :end < 4
ROLLBACK TO SAVEPOINT s;
SELECT count(*) FROM esrs_persist('race', lpad(:a::text, 32, '0')::uuid, ARRAY['{"added": 2}']::jsonb[]);
SLEEP :sleep2 us
\endif
SAVEPOINT s;
\if :two = 1
SELECT esrs_handle_command('race', lpad(:b::text, 32, '0')::uuid, '{"add": 1}');
SLEEP :sleep2 us
\endif
\if :two = 2
SELECT count(*) FROM esrs_persist('other', lpad(:b::text, 32, '0')::uuid, ARRAY['{"added": 1}']::jsonb[]);
\endif
\if :end = 4
ROLLBACK TO SAVEPOINT s;
\endif
\if :end > 18
ROLLBACK;
\else
COMMIT;
\endif
SQL
(my $slow = $writer) =~ s/^SLEEP/\\sleep/mg;
(my $fast = $writer) =~ s/^SLEEP.*\n//mg;

my $all = '(SELECT count(*) FROM race_events) + (SELECT count(*) FROM other_events)';
my $begun = time();
my $rounds = 0;
while ($rounds == 0 || (sql("SELECT $all") < $wanted && $rounds < 20))
{
	$rounds++;
	$node->pgbench(
		"-n -M prepared -c 16 -j 2 -T $seconds",
		0,
		[qr/number of failed transactions: 0 /],
		[qr/^$/],
		'no writer sees an error',
		{ "014_slow_$rounds\@2" => $slow, "014_fast_$rounds\@1" => $fast });
}
my $loaded = time() - $begun;

for my $handler ('aggregate', 'total', 'partitions')
{
	is(sql("SELECT esrs_wait_for('$handler', timeout => '150s')"), 't', "$handler has nothing left to do")
	  or last;
}
my $drained = time() - $begun - $loaded;
sql('UPDATE control SET stop = true');
for my $name (sort keys %running)
{
	eval { $running{$name}{run}->finish };
	is($@ . ${ $running{$name}{err} }, '', "$name has come to its end");
}

my $race = sql('SELECT count(*) FROM race_events');
my $other = sql('SELECT count(*) FROM other_events');
note("$race and $other events in $loaded s, handled $drained s later");
note(sql("SELECT string_agg(format('%s: %s delivered by %s processes', consumer, n, pids), E'\\n' ORDER BY consumer)
          FROM (SELECT consumer, count(*) AS n, count(DISTINCT pid) AS pids FROM delivered GROUP BY 1) AS d"));
cmp_ok($race + $other, '>=', $ENV{ESRS_LONG} ? 200_000 : 1000, 'there was something to read');
cmp_ok(sql('SELECT last_value FROM esrs.position_seq'), '>', $race + $other, 'and some was rolled back');

# ---------------------------------------------------------------------------
# lost 0, twice 0, in order
# ---------------------------------------------------------------------------

sql('CREATE VIEW stored AS
     SELECT \'race\' AS aggregate, id, position, aggregate_id, sequence_number FROM race_events UNION ALL
     SELECT \'other\', id, position, aggregate_id, sequence_number FROM other_events;
     ANALYZE delivered, race_events, other_events');

# How many stored events of some aggregates a consumer did not get.
sub lost
{
	my ($name, $aggregates) = @_;

	return sql("SELECT count(*) FROM stored AS s WHERE aggregate = ANY ('$aggregates') AND NOT EXISTS
	            (SELECT FROM delivered AS d WHERE consumer = '$name' AND d.id = s.id)");
}

for my $name ('aggregate', 'total', 'partitions', 'sub_aggregate', 'sub_total', 'twin')
{
	is(lost($name, $name eq 'twin' ? '{race}' : '{race,other}'), '0', "$name: nothing lost");
	is( sql("SELECT count(*) - count(DISTINCT id) FROM delivered WHERE consumer = '$name'"),
		'0', "$name: nothing twice");
	is( sql("SELECT count(*) FROM delivered AS d WHERE consumer = '$name' AND NOT EXISTS
	         (SELECT FROM stored AS s WHERE s.id = d.id AND s.aggregate = d.aggregate AND s.position = d.position
	          AND s.aggregate_id = d.aggregate_id AND s.sequence_number = d.sequence_number)"),
		'0', "$name: nothing that was not committed");
	is( sql("SELECT count(*) FROM (SELECT sequence_number - coalesce(lag(sequence_number) OVER
	         (PARTITION BY aggregate, aggregate_id ORDER BY nth), 0) AS step
	         FROM delivered WHERE consumer = '$name') AS d WHERE step <> 1"),
		'0', "$name: 1 to n in every instance");
}
for my $name ('total', 'sub_total', 'twin')
{
	is( sql("SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY nth) AS back
	         FROM delivered WHERE consumer = '$name') AS d WHERE back"),
		'0', "$name: in order of position");
}

# a handler that gets an event twice fails, and then the event is dead
is(sql('SELECT count(*) FROM esrs_dead_letters'), '0', 'no handler has failed');
is( sql("SELECT count(*) FROM (SELECT last_error FROM esrs_lag UNION ALL SELECT last_error FROM esrs_subscriptions) AS l
         WHERE last_error IS NOT NULL"),
	'0', 'nor had to be run again');
# neither a worker nor a subscriber leaves anything behind that was ahead of its checkpoint
ok( wait_until($node, 'postgres', "NOT EXISTS (SELECT FROM esrs.checkpoints WHERE NOT isempty(ahead) OR NOT isempty(handed))", 30),
	'and nothing is ahead of a checkpoint any more');

# ---------------------------------------------------------------------------
# and those that must lose
# ---------------------------------------------------------------------------

my $naive = lost('naive', '{race}');
cmp_ok($naive, '>', 0, "naive: loses events ($naive), so this was a race");
my $mutant = lost('mutant', '{race}');
cmp_ok($mutant, '>', 0, "mutant: loses events ($mutant), so the order of bound and snapshot was at stake");

$node->stop;
done_testing();
