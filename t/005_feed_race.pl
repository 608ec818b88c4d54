# The race for the feed.  Sixteen writers append to two aggregates, with sleeps between
# the append and the commit and a tenth of rollbacks.  Consumers that read esrs_feed() on
# from the last position they got must lose nothing, get nothing twice, and get everything
# in order.  A naive consumer beside them, "position > checkpoint", must lose events, or
# the race was none and the test has proven nothing.
#
# Catches: a bound published after the position was drawn, released too early, or looked
# at after the reading snapshot was taken; one per session, per instance or per savepoint
# instead of per transaction and aggregate.

use strict;
use warnings;

use FindBin;
use lib $FindBin::Bin;
use EsrsTest;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = 6;
my $node = new_node('race', conf => "shared_buffers = 128MB\nautovacuum = off\n");

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql('CREATE EXTENSION esrs');
sql(counter_sql('race'));
sql("SELECT esrs_register_aggregate('other')");
sql(<<'SQL');
CREATE TABLE control (stop boolean);
INSERT INTO control VALUES (false);
-- what each consumer got, in the order in which it got it
CREATE UNLOGGED TABLE delivered (consumer text, nth bigserial, aggregate text, position bigint,
    aggregate_id uuid, sequence_number int);

-- Reads until the writers have stopped and nothing is left.  A batch and the checkpoint
-- are one transaction.
CREATE PROCEDURE consume(consumer text, query text) LANGUAGE plpgsql AS $$
DECLARE
    checkpoint bigint := 0;
    batch bigint;
    stopped boolean;
BEGIN
    LOOP
        SELECT stop INTO stopped FROM control;
        COMMIT;
        EXECUTE format('WITH b AS (%s), i AS (INSERT INTO delivered (consumer, aggregate, position, aggregate_id, sequence_number)
                SELECT %L, aggregate, position, aggregate_id, sequence_number FROM b)
            SELECT count(*), coalesce(max(position), $1) FROM b', query, consumer)
            INTO batch, checkpoint USING checkpoint;
        COMMIT;
        EXIT WHEN stopped AND batch = 0;
        PERFORM pg_sleep(0.002);
    END LOOP;
END $$;
SQL

my %queries = (
	feed => "SELECT * FROM esrs_feed(ARRAY['race'], \$1, 100000)",
	both => "SELECT * FROM esrs_feed(ARRAY['other', 'race'], \$1, 100000)",
	naive => "SELECT 'race' AS aggregate, position, aggregate_id, sequence_number FROM race_events
	          WHERE position > \$1 ORDER BY position LIMIT 100000");

my %consumers;
for my $name (sort keys %queries)
{
	my $timer = IPC::Run::timeout(120);
	my ($out, $err) = ('', '');

	$consumers{$name} = {
		err => \$err,
		run => IPC::Run::start(
			[
				$node->installed_command('psql'), '-XAtq',
				'-d', $node->connstr('postgres'),
				'-c', "CALL consume('$name', \$q\$$queries{$name}\$q\$)"
			],
			'<', \undef, '>', \$out, '2>', \$err, $timer)
	};
}

$node->poll_query_until('postgres',
	"SELECT count(*) = 3 FROM pg_stat_activity WHERE query LIKE 'CALL consume%'")
  or die 'the consumers do not start';

# two instances a transaction, in ascending order, so that no writer deadlocks
$node->pgbench(
	"-n -M prepared -c 16 -j 2 -T $seconds",
	0,
	[qr/number of failed transactions: 0 /],
	[qr/^$/],
	'no writer sees an error',
	{
		'005_feed_race' => <<'SQL'
\set a random(1, 200)
\set b random(201, 400)
\set n random(1, 4)
\set sleep1 random(0, 4000)
\set sleep2 random(0, 4000)
\set end random(1, 10)
\set two random(1, 3)
BEGIN;
SELECT count(*) FROM esrs_persist('race', lpad(:a::text, 32, '0')::uuid,
    array_fill('{"added": 1}'::jsonb, ARRAY[:n::int]));
\sleep :sleep1 us
SAVEPOINT s;
\if :two = 1
SELECT esrs_handle_command('race', lpad(:b::text, 32, '0')::uuid, '{"add": 1}');
\sleep :sleep2 us
\endif
\if :two = 2
SELECT count(*) FROM esrs_persist('other', lpad(:b::text, 32, '0')::uuid, ARRAY['{"added": 1}']::jsonb[]);
\endif
\if :end = 1
ROLLBACK TO SAVEPOINT s;
\endif
\if :end = 2
ROLLBACK;
\else
COMMIT;
\endif
SQL
	});
sql('UPDATE control SET stop = true');
for my $name (sort keys %consumers)
{
	eval { $consumers{$name}{run}->finish };
	is($@ . ${ $consumers{$name}{err} }, '', "consumer $name has come to its end");
}

my $committed = sql('SELECT count(*) FROM race_events');
my $other = sql('SELECT count(*) FROM other_events');
note("$committed and $other events in $seconds s");
note(sql("SELECT string_agg(format('%s: %s delivered', consumer, n), ', ' ORDER BY consumer)
          FROM (SELECT consumer, count(*) AS n FROM delivered GROUP BY 1) AS d"));
cmp_ok($committed, '>', 500, 'there was something to read');
cmp_ok(sql('SELECT max(position) FROM race_events'),
	'>', $committed + $other, 'and some was rolled back');

for my $name ('feed', 'both')
{
	is( sql("SELECT count(*) FROM race_events AS e WHERE NOT EXISTS
	         (SELECT FROM delivered AS d WHERE consumer = '$name' AND aggregate = 'race' AND d.position = e.position)"),
		'0', "$name: nothing lost");
	is( sql("SELECT count(*) - count(DISTINCT position) FROM delivered WHERE consumer = '$name'"),
		'0', "$name: nothing twice");
	is( sql("SELECT count(*) FROM delivered AS d WHERE consumer = '$name' AND aggregate = 'race' AND NOT EXISTS
	         (SELECT FROM race_events AS e WHERE e.position = d.position AND e.aggregate_id = d.aggregate_id
	          AND e.sequence_number = d.sequence_number)"),
		'0', "$name: nothing that was not committed");
	is( sql("SELECT count(*) FROM (SELECT position < lag(position) OVER (ORDER BY nth) AS back
	         FROM delivered WHERE consumer = '$name') AS d WHERE back"),
		'0', "$name: in order of position");
	is( sql("SELECT count(*) FROM (SELECT sequence_number - coalesce(lag(sequence_number) OVER
	         (PARTITION BY aggregate, aggregate_id ORDER BY nth), 0) AS step
	         FROM delivered WHERE consumer = '$name') AS d WHERE step <> 1"),
		'0', "$name: 1 to n in every instance");
}
is( sql("SELECT count(*) FROM other_events AS e WHERE NOT EXISTS
         (SELECT FROM delivered AS d WHERE consumer = 'both' AND aggregate = 'other' AND d.position = e.position)"),
	'0', 'both: nothing of the other aggregate lost');

my $lost = sql("SELECT count(*) FROM race_events AS e WHERE NOT EXISTS
                (SELECT FROM delivered AS d WHERE consumer = 'naive' AND d.position = e.position)");
cmp_ok($lost, '>', 0, "naive: loses events ($lost), so this was a race");

$node->stop;
done_testing();
