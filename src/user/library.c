/*-------------------------------------------------------------------------
 *
 * library.c
 *	  Which build of a shared library is it?  Its build ID, which the linker makes
 *	  of its contents.
 *
 * Nothing here may load a library.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/library.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include "miscadmin.h"
#include "storage/fd.h"

typedef struct Search
{
	uintptr_t	address;		/* somewhere in the library, or 0 ... */
	const char *path;			/* ... its file */
	EsrsBuildId *build;
} Search;

/* The build ID in a segment of notes. */
static void
read_notes(EsrsBuildId *build, const char *notes, Size size)
{
	Size		offset = 0;

	while (offset + sizeof(ElfW(Nhdr)) <= size)
	{
		const		ElfW(Nhdr) * note = (const ElfW(Nhdr) *) (notes + offset);
		Size		name = offset + sizeof(*note);
		Size		data = name + TYPEALIGN(4, note->n_namesz);

		if (data + note->n_descsz > size)
			return;
		if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
			memcmp(notes + name, "GNU", 4) == 0 && note->n_descsz <= sizeof(build->id))
		{
			memcpy(build->id, notes + data, note->n_descsz);
			build->length = note->n_descsz;
			return;
		}
		offset = data + TYPEALIGN(4, note->n_descsz);
	}
}

static int
look_at_library(struct dl_phdr_info *info, size_t size, void *arg)
{
	Search	   *search = (Search *) arg;
	EsrsBuildId *build = search->build;
	bool		found = false;

	if (search->address == 0)
		found = strcmp(info->dlpi_name, search->path) == 0;
	for (int i = 0; i < info->dlpi_phnum && !found && search->address != 0; i++)
	{
		const		ElfW(Phdr) * segment = &info->dlpi_phdr[i];
		uintptr_t	begin = info->dlpi_addr + segment->p_vaddr;

		found = segment->p_type == PT_LOAD && search->address >= begin &&
			search->address < begin + segment->p_memsz;
	}
	if (!found)
		return 0;
	build->base = info->dlpi_addr;
	for (int i = 0; i < info->dlpi_phnum && build->length == 0; i++)
	{
		const		ElfW(Phdr) * segment = &info->dlpi_phdr[i];

		if (segment->p_type == PT_NOTE)
			read_notes(build, (const char *) (info->dlpi_addr + segment->p_vaddr),
					   segment->p_memsz);
	}
	return 1;
}

/* Read so much of a file at an offset; NULL if it is not there. */
static char *
read_part(int fd, off_t offset, Size size)
{
	char	   *part;

	if (size > 1024 * 1024)
		return NULL;
	part = palloc(size);
	return pg_pread(fd, part, size, offset) == size ? part : NULL;
}

/* The build ID in a file that is not loaded. */
static void
read_file(EsrsBuildId *build, int fd)
{
	ElfW(Ehdr) * header = (ElfW(Ehdr) *) read_part(fd, 0, sizeof(ElfW(Ehdr)));
	ElfW(Phdr) * segments;

	if (header == NULL || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
		header->e_phentsize != sizeof(ElfW(Phdr)))
		return;
	segments = (ElfW(Phdr) *) read_part(fd, header->e_phoff,
										header->e_phnum * sizeof(ElfW(Phdr)));
	for (int i = 0; segments != NULL && i < header->e_phnum && build->length == 0; i++)
	{
		char	   *notes;

		if (segments[i].p_type != PT_NOTE)
			continue;
		notes = read_part(fd, segments[i].p_offset, segments[i].p_filesz);
		if (notes != NULL)
			read_notes(build, notes, segments[i].p_filesz);
	}
}

/*
 * The library that holds this code, as the process has loaded it, which may not be
 * the one on disk any more.  False if it has no build ID.
 */
bool
esrs_library_of_code(uintptr_t address, EsrsBuildId *build)
{
	Search		search = {.address = address,.build = build};

	memset(build, 0, sizeof(*build));
	(void) dl_iterate_phdr(look_at_library, &search);
	return build->length > 0;
}

/*
 * The library of a function in C, as pg_proc names it: as it is loaded, or else as
 * it is in its file.  Without a build ID, what tells one file from another.  False
 * if there is no such file.
 */
bool
esrs_library_of_name(const char *name, EsrsBuildId *build)
{
	Search		search = {.path = name,.build = build};
	struct stat st;
	int			fd;

	memset(build, 0, sizeof(*build));
	if (strncmp(name, "$libdir/", 8) == 0)
		search.path = psprintf("%s/%s", pkglib_path, name + 8);
	else if (strchr(name, '/') == NULL)
		search.path = psprintf("%s/%s", pkglib_path, name);
	if (stat(search.path, &st) != 0)
		search.path = psprintf("%s%s", search.path, DLSUFFIX);
	(void) dl_iterate_phdr(look_at_library, &search);
	if (build->length > 0)
		return true;
	fd = OpenTransientFile(search.path, O_RDONLY | PG_BINARY);
	if (fd < 0)
		return false;
	read_file(build, fd);
	if (build->length == 0 && fstat(fd, &st) == 0)
	{
		memcpy(build->id, &st.st_size, sizeof(st.st_size));
		memcpy(build->id + sizeof(st.st_size), &st.st_mtim, sizeof(st.st_mtim));
		build->length = sizeof(st.st_size) + sizeof(st.st_mtim);
	}
	CloseTransientFile(fd);
	return build->length > 0;
}
