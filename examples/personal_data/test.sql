-- personal_data: events that can be forgotten, though none of them is ever changed.

CREATE EXTENSION esrs;

CREATE ROLE example_vault;      -- owns the keys
CREATE ROLE example_clerk;      -- may command
CREATE ROLE example_care;       -- may read

-- ---------------------------------------------------------------------------
-- The vault: a key for each person, and nobody but its own functions sees one
-- ---------------------------------------------------------------------------

CREATE SCHEMA vault AUTHORIZATION example_vault;
CREATE EXTENSION pgcrypto SCHEMA vault;
SET ROLE example_vault;

-- "subject" is what events name; "customer" is the instance, which the key goes with if
-- that is deleted.
CREATE TABLE vault.keys (
    subject  uuid PRIMARY KEY,
    customer uuid UNIQUE,
    key      text NOT NULL
);

CREATE FUNCTION vault.make_key() RETURNS uuid SECURITY DEFINER
BEGIN ATOMIC
    INSERT INTO vault.keys (subject, key)
    VALUES (gen_random_uuid(), encode(vault.gen_random_bytes(32), 'hex'))
    RETURNING subject;
END;

-- An error (P0002) if there is no key: better no event than one that holds nothing.
CREATE FUNCTION vault.seal(subject uuid, plain text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = vault, pg_temp AS $$
DECLARE
    its_key text;
BEGIN
    SELECT k.key INTO STRICT its_key FROM keys AS k WHERE k.subject = seal.subject;
    -- s2k-mode=1: the key is random, so nothing is gained by hashing it thousands of times
    RETURN encode(pgp_sym_encrypt(plain, its_key, 'cipher-algo=aes256, s2k-mode=1'), 'base64');
END $$;

-- NULL if there is no key.
CREATE FUNCTION vault.unseal(subject uuid, sealed text) RETURNS text STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT vault.pgp_sym_decrypt(decode(sealed, 'base64'), k.key)
      FROM vault.keys AS k WHERE k.subject = unseal.subject;
END;

-- Keys follow events, in the transaction of the command.
CREATE FUNCTION vault.keep_keys(event public.esrs_event) RETURNS void SECURITY DEFINER
BEGIN ATOMIC
    UPDATE vault.keys SET customer = event.aggregate_id
     WHERE subject = (event.payload #>> '{Registered,subject}')::uuid;
    DELETE FROM vault.keys WHERE subject = (event.payload #>> '{Forgotten,subject}')::uuid;
END;

CREATE FUNCTION vault.drop_keys(deleted uuid) RETURNS void SECURITY DEFINER
BEGIN ATOMIC
    DELETE FROM vault.keys WHERE customer = deleted;
END;

REVOKE EXECUTE ON FUNCTION vault.make_key, vault.seal, vault.unseal, vault.keep_keys, vault.drop_keys FROM PUBLIC;
GRANT USAGE ON SCHEMA vault TO example_clerk, example_care;
GRANT EXECUTE ON FUNCTION vault.make_key, vault.seal TO example_clerk;
GRANT EXECUTE ON FUNCTION vault.unseal TO example_care;
RESET ROLE;

-- ---------------------------------------------------------------------------
-- The aggregate: the command brings plain data, the event holds sealed data
-- ---------------------------------------------------------------------------

CREATE FUNCTION customer_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
    subject uuid := state ->> 'subject';
BEGIN
    CASE
        WHEN command ? 'Register' AND subject IS NULL THEN
            subject := vault.make_key();
            RETURN ARRAY[jsonb_build_object('Registered', jsonb_build_object(
                'subject', subject,
                'name', vault.seal(subject, command #>> '{Register,name}'),
                'email', vault.seal(subject, command #>> '{Register,email}')))];
        WHEN command ? 'Rename' AND subject IS NOT NULL THEN
            RETURN ARRAY[jsonb_build_object('Renamed', jsonb_build_object(
                'subject', subject, 'name', vault.seal(subject, command #>> '{Rename,name}')))];
        WHEN command ? 'Earn' THEN
            RETURN ARRAY[jsonb_build_object('Earned', command -> 'Earn')];
        WHEN command = '"Forget"' AND subject IS NOT NULL THEN
            RETURN ARRAY[jsonb_build_object('Forgotten', jsonb_build_object('subject', subject))];
        ELSE
            RAISE 'this cannot be done now' USING ERRCODE = 'ZE001', CONSTRAINT = 'NotNow';
    END CASE;
END $$;

-- It knows of no keys: whatever it makes of an event, it makes of it for ever.
CREATE FUNCTION customer_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN event ? 'Registered' THEN RETURN state || (event -> 'Registered');
        WHEN event ? 'Renamed' THEN RETURN state || (event -> 'Renamed');
        WHEN event ? 'Earned' THEN
            RETURN state || jsonb_build_object('points',
                       (state -> 'points')::int + (event #> '{Earned,points}')::int);
        WHEN event ? 'Forgotten' THEN RETURN state - '{subject,name,email}'::text[];
    END CASE;
END $$;

SELECT esrs_register_aggregate('customer', initial_state => '{"points": 0}',
    handle_command => 'customer_handle(jsonb,jsonb)', apply_event => 'customer_apply(jsonb,jsonb)',
    snapshot_every => 2, notify => 'commit', notify_payload => 'event');
SELECT esrs_register_handler('keys', '{customer}', 'vault.keep_keys(esrs_event)',
    delete_handler => 'vault.drop_keys(uuid)', event_types => '{Registered,Forgotten}');
GRANT EXECUTE ON FUNCTION customer_handle TO example_clerk;

-- A read model in plain text.  It must forget by itself, and it may come late: the key of
-- an old event can be gone.
CREATE TABLE directory (customer uuid PRIMARY KEY, name text NOT NULL, email text NOT NULL);

CREATE FUNCTION keep_directory(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO directory
    SELECT event.aggregate_id, x.name, x.email
      FROM (SELECT vault.unseal((event.payload #>> '{Registered,subject}')::uuid, event.payload #>> '{Registered,name}'),
                   vault.unseal((event.payload #>> '{Registered,subject}')::uuid, event.payload #>> '{Registered,email}')
           ) AS x (name, email)
     WHERE x.name IS NOT NULL;
    UPDATE directory
       SET name = coalesce(vault.unseal((event.payload #>> '{Renamed,subject}')::uuid,
                                        event.payload #>> '{Renamed,name}'), name)
     WHERE customer = event.aggregate_id AND event.payload ? 'Renamed';
    DELETE FROM directory WHERE customer = event.aggregate_id AND event.payload ? 'Forgotten';
END;

CREATE FUNCTION drop_directory(deleted uuid) RETURNS void BEGIN ATOMIC
    DELETE FROM directory WHERE customer = deleted;
END;

SELECT esrs_register_handler('directory', '{customer}', 'keep_directory(esrs_event)', mode => 'async',
    delete_handler => 'drop_directory(uuid)', event_types => '{Registered,Renamed,Forgotten}');

-- For those who may read: everything that was, as far as there are keys.
CREATE VIEW customer_history AS
SELECT aggregate_id, sequence_number, type,
       vault.unseal((data ->> 'subject')::uuid, data ->> 'name') AS name,
       vault.unseal((data ->> 'subject')::uuid, data ->> 'email') AS email
  FROM customer_events, jsonb_each(payload) AS x (type, data);
GRANT SELECT ON customer_history TO example_care, example_clerk;

-- In how many places of each kind are the words to be found?
CREATE FUNCTION find(words text, OUT place text, OUT found bigint) RETURNS SETOF record
LANGUAGE sql SET search_path = public, pg_temp AS $$
    SELECT 'events', count(*) FROM customer_events AS e WHERE e::text ~ words
    UNION ALL
    SELECT 'states', count(*) FROM (SELECT DISTINCT aggregate_id FROM customer_events) AS i,
           esrs_load('customer', i.aggregate_id) AS s WHERE s::text ~ words
    UNION ALL
    SELECT 'snapshots', count(*) FROM esrs.snapshots AS s WHERE s::text ~ words
    UNION ALL
    SELECT 'feed', count(*) FROM esrs_feed('{customer}') AS e WHERE esrs_event_json(e) ~ words
    UNION ALL
    SELECT 'directory', count(*) FROM directory AS d WHERE d::text ~ words
    ORDER BY 1
$$;

-- ---------------------------------------------------------------------------
-- Ada and Grace come
-- ---------------------------------------------------------------------------

\set ada '''0b5e7c1e-0000-4000-8000-000000000001'''
\set grace '''0b5e7c1e-0000-4000-8000-000000000002'''

-- What listeners are told, word by word, as far as the words are asked for here.
LISTEN customer_events;
\o |grep -oE 'notification "[a-z_]+"|Registered|Byron|ada@example.com'
SET ROLE example_clerk;
SELECT esrs_handle_command('customer', :ada, '{"Register": {"name": "Ada Byron", "email": "ada@example.com"}}');
RESET ROLE;
\o
UNLISTEN customer_events;

SET ROLE example_clerk;
SELECT ok FROM esrs_try_command('customer', :ada, '{"Rename": {"name": "Ada Lovelace"}}');
SELECT ok FROM esrs_try_command('customer', :ada, '{"Earn": {"points": 10}}');
SELECT ok FROM esrs_try_command('customer', :grace, '{"Register": {"name": "Grace Hopper", "email": "grace@example.com"}}');

-- Who commands cannot read, neither events nor keys.
SELECT name FROM customer_history;
SELECT count(*) FROM vault.keys;
RESET ROLE;
SET ROLE example_care;
SELECT * FROM customer_history ORDER BY 1, 2;
RESET ROLE;

-- Plain text is in the read model, and nowhere else.
SELECT esrs_wait_for('directory', timeout => '60s');
SELECT * FROM find('Byron|Lovelace|ada@example');
SELECT aggregate_id, sequence_number, length(state ->> 'name') > 0 AS sealed FROM esrs.snapshots;

-- somebody makes a backup
CREATE TABLE backup_of_keys AS TABLE vault.keys;

-- ---------------------------------------------------------------------------
-- Ada wants to be forgotten
-- ---------------------------------------------------------------------------

SET ROLE example_clerk;
SELECT esrs_handle_command('customer', :ada, '"Forget"');
RESET ROLE;

-- Nobody reads her events any more, though they are all there.
SET ROLE example_care;
SELECT * FROM customer_history ORDER BY 1, 2;
RESET ROLE;
SELECT sequence_number, octet_length(data ->> 'name') > 0 AS sealed
  FROM customer_events, jsonb_each(payload) AS x (type, data)
 WHERE aggregate_id = :ada AND data ? 'name';
SELECT esrs_wait_for('directory', timeout => '60s');
SELECT * FROM find('Byron|Lovelace|ada@example');

-- She goes on collecting points.  Her past is folded as before, at any of its numbers.
SELECT esrs_handle_command('customer', :ada, '{"Rename": {"name": "Ada King"}}');
SELECT esrs_handle_command('customer', :ada, '{"Earn": {"points": 5}}', expected_sequence => 4);
SELECT sequence_number, state -> 'points' AS points, state ? 'name' AS has_name
  FROM generate_series(1, 5) AS n, esrs_load('customer', :ada, at_sequence => n);

SET client_min_messages = warning;
SELECT * FROM esrs_verify('customer');
RESET client_min_messages;

-- The read model is made anew, from the beginning.
BEGIN;
SELECT esrs_reset_handler('directory', 0);
TRUNCATE directory;
COMMIT;
SELECT esrs_wait_for('directory', timeout => '60s');
SELECT * FROM directory;

-- If she comes back, it is with another key: what was before stays dark.
SELECT ok FROM esrs_try_command('customer', :ada, '{"Register": {"name": "Ada", "email": "ada@example.org"}}');
SELECT sequence_number, type, name FROM customer_history WHERE aggregate_id = :ada ORDER BY 1;

-- ---------------------------------------------------------------------------
-- What this does not do
-- ---------------------------------------------------------------------------

-- A key that is somewhere else, too, is not gone.
INSERT INTO vault.keys SELECT subject, NULL, key FROM backup_of_keys WHERE customer = :ada;
SELECT sequence_number, type, name FROM customer_history WHERE aggregate_id = :ada ORDER BY 1;

-- esrs_delete takes the events, and with them the key and the read model.
SELECT esrs_delete('customer', :grace, permanent => true);
SELECT esrs_wait_for('directory', timeout => '60s');
SELECT (SELECT count(*) FROM customer_events WHERE aggregate_id = :grace) AS events,
       (SELECT count(*) FROM vault.keys WHERE customer = :grace) AS keys,
       (SELECT count(*) FROM directory WHERE customer = :grace) AS directory;
SELECT esrs_handle_command('customer', :grace, '{"Earn": {"points": 5}}');

-- roles are the cluster's, not the database's
REASSIGN OWNED BY example_vault TO CURRENT_USER;
DROP OWNED BY example_vault, example_clerk, example_care;
DROP ROLE example_vault, example_clerk, example_care;
