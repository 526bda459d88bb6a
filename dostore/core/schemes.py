"""How contents are cut: most by the store's scheme, small ones as whole copies, if one wishes."""

from __future__ import annotations

from collections.abc import Collection

from attrs import field, frozen

from dostore.core.scheme import Scheme


@frozen(slots=True)
class Schemes:
    """By what scheme a content is stored that is new, and how many shards a write needs.

    What is stored already goes by the scheme that it was stored by, whatever this says now.

    :ivar usual: that of the store.
    :ivar quorum: how many shards a write needs by that.
    :ivar copies_below: contents of fewer bytes are kept as m + 1 whole copies; 0: none are.
    :ivar copies: the scheme of those: the same losses are survived.
    """

    usual: Scheme
    quorum: int
    copies_below: int = 0
    copies: Scheme = field(init=False)

    @copies.default
    def _copies(self) -> Scheme:
        return Scheme(1, self.usual.m, self.usual.block_size)

    def of_size(self, size: int) -> Scheme:
        """The scheme of a new content."""
        return self.copies if size < self.copies_below else self.usual

    def uses(self, scheme: Scheme) -> bool:
        """Whether new contents may be stored by it."""
        return scheme in (self.usual, self.copies)

    def quorum_of(self, scheme: Scheme) -> int:
        """How many shards a write by some scheme needs: as many more than it must as the store's
        own does.
        """
        more = self.quorum - self.usual.write_quorum
        return max(scheme.k, min(scheme.shards, scheme.write_quorum + more))

    @property
    def least_quorum(self) -> int:
        """How many nodes have to take shards for any write at all."""
        return self.quorum_of(self.of_size(0))

    def are_whole(self, indexes: Collection[int]) -> bool:
        """Whether shards of these indexes are all that there are to be, as far as indexes tell.

        A content with the indexes of all copies and no others may be one of copies that is whole,
        or one by the usual scheme that has lost the rest. Where those would be too few, nothing
        could be made of them anyway.
        """
        if len(indexes) >= self.usual.shards:
            return True
        return self.may_be_copies(indexes) and len(indexes) == self.copies.shards < self.usual.k

    def may_be_copies(self, indexes: Collection[int]) -> bool:
        """Whether shards of these indexes may be whole copies, which are readable alone."""
        return all(index < self.copies.shards for index in indexes)
