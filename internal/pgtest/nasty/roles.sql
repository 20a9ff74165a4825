-- Roles are the cluster's, and may be there already.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nasty owner') THEN
        CREATE ROLE "nasty owner";
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'nasty "reader"; --') THEN
        CREATE ROLE "nasty ""reader""; --";
    END IF;
END $$;
