/* A plugin as it should be. Its functions are named in plugin_host.rs, and in no header: there are only three. */
#include <ctype.h>
#include <stddef.h>
#include <stdint.h>

int64_t sum(const int64_t *numbers, size_t count) {
    int64_t total = 0;
    for (size_t i = 0; i < count; i++) total += numbers[i];
    return total;
}

void upper(char *text, size_t length) {
    for (size_t i = 0; i < length; i++) text[i] = toupper((unsigned char)text[i]);
}

/* Bulk data, where it lies. */
void invert(uint8_t *pixels, size_t count) {
    for (size_t i = 0; i < count; i++) pixels[i] = 255 - pixels[i];
}
