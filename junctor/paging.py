"""Lists: one page as a value, and iterators that ask for the next page when it is needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from junctor.errors import InternalError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; ``number`` counts from 1."""

    data: tuple[T, ...]
    number: int
    size: int
    total_pages: int
    total_results: int

    @classmethod
    def read(cls, content: Any, item: Callable[[Any], T]) -> Page[T]:
        """Build the page from the envelope of a list. Raises InternalError when it is none."""
        try:
            about = content["pagination"]
            data = tuple(item(entry) for entry in content["data"])
            return cls(data, about["page"], about["page_size"], about["total_pages"], about["total_results"])
        except (TypeError, KeyError):
            raise InternalError("the server's answer is not a page of a list") from None


class Pages(Generic[T]):
    """A list that was asked for. Iterating over it walks all items; each iteration asks anew.

    Nothing is sent before the first item or page is asked for.
    """

    def __init__(self, fetch: Callable[[int], Page[T]]) -> None:
        self._fetch = fetch

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page.data

    def page(self, number: int = 1) -> Page[T]:
        """Ask for one page."""
        return self._fetch(number)

    def pages(self) -> Iterator[Page[T]]:
        """Iterate over the pages."""
        number, last = 1, 1
        while number <= last:
            page = self._fetch(number)
            yield page
            number, last = number + 1, page.total_pages


class AsyncPages(Generic[T]):
    """The async twin of :class:`Pages`: ``async for item in client.models.list()``."""

    def __init__(self, fetch: Callable[[int], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.data:
                yield item

    async def page(self, number: int = 1) -> Page[T]:
        """Ask for one page."""
        return await self._fetch(number)

    async def pages(self) -> AsyncIterator[Page[T]]:
        """Iterate over the pages."""
        number, last = 1, 1
        while number <= last:
            page = await self._fetch(number)
            yield page
            number, last = number + 1, page.total_pages
