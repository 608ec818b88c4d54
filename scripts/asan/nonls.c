/*
 * nonls.c
 *	  Stand-ins for the message translation functions, preloaded after
 *	  libasan by scripts/test --sanitize.
 *
 * Without them a server that is not itself built with the sanitizer hangs at
 * its start: libasan initialises itself inside glibc's gettext lock, and the
 * next bindtextdomain() waits for that lock for ever.  Messages stay English.
 */

char	   *bindtextdomain(const char *domain, const char *dir);
char	   *bind_textdomain_codeset(const char *domain, const char *codeset);
char	   *textdomain(const char *domain);
char	   *gettext(const char *msgid);
char	   *dgettext(const char *domain, const char *msgid);
char	   *dcgettext(const char *domain, const char *msgid, int category);
char	   *ngettext(const char *one, const char *many, unsigned long n);
char	   *dngettext(const char *domain, const char *one, const char *many,
					  unsigned long n);

char *
bindtextdomain(const char *domain, const char *dir)
{
	return (char *) dir;
}

char *
bind_textdomain_codeset(const char *domain, const char *codeset)
{
	return (char *) codeset;
}

char *
textdomain(const char *domain)
{
	return (char *) domain;
}

char *
gettext(const char *msgid)
{
	return (char *) msgid;
}

char *
dgettext(const char *domain, const char *msgid)
{
	return (char *) msgid;
}

char *
dcgettext(const char *domain, const char *msgid, int category)
{
	return (char *) msgid;
}

char *
ngettext(const char *one, const char *many, unsigned long n)
{
	return (char *) (n == 1 ? one : many);
}

char *
dngettext(const char *domain, const char *one, const char *many,
		  unsigned long n)
{
	return (char *) (n == 1 ? one : many);
}
